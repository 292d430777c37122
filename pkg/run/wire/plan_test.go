package wire

import (
	"errors"
	"reflect"
	"testing"
)

func samplePlan() *Plan {
	return &Plan{
		CloneFlags: 0x20000, Prefix: 1, DenySetgroups: true, RestoreNofile: true,
		UIDs: []IDMap{{0, 1000, 1}, {1, 100000, 65536}}, GIDs: []IDMap{{0, 1000, 1}},
		CgroupFiles: []string{"/sys/fs/cgroup/x/cgroup.procs"},
		Data:        []byte("open\x00pad\x00abcdefgh\x00"),
		Relocs:      []Reloc{{At: 8, To: 0}},
		Steps: []Step{
			{Op: OpCall, Nr: 257, Save: 3, What: 0, AnyError: true, Skip: 1,
				Args: [6]Arg{{ArgSlot, SlotInit}, {ArgData, 4}, {ArgReg, 9}, {ArgImm, ^uint64(0)}}},
			{Op: OpLoad, Save: 1, Args: [6]Arg{{ArgData, 8}, {ArgImm, 8}}, Errnos: [4]uint16{2, 13}},
			{Op: OpFail, Final: true, Skip: -2, Args: [6]Arg{{ArgImm, 2}}},
		},
	}
}

func TestPlanRoundTrip(t *testing.T) {
	want := samplePlan()
	got, err := UnmarshalPlan(want.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	if text := got.Text(0); text != "open" {
		t.Errorf("Text = %q", text)
	}
}

func TestPlanRefusesWhatTheInterpreterCannotBear(t *testing.T) {
	tests := map[string]func(*Plan){
		"no steps":                 func(p *Plan) { p.Steps = nil },
		"jump behind the end":      func(p *Plan) { p.Steps[2].Skip = 1 },
		"jump before the start":    func(p *Plan) { p.Steps[0].Skip = -2 },
		"unknown operation":        func(p *Plan) { p.Steps[0].Op = 99 },
		"unknown kind of argument": func(p *Plan) { p.Steps[0].Args[5].Kind = 7 },
		"register 0":               func(p *Plan) { p.Steps[0].Args[0] = Arg{ArgReg, 0} },
		"no such slot":             func(p *Plan) { p.Steps[0].Args[0] = Arg{ArgSlot, NumSlots} },
		"address outside":          func(p *Plan) { p.Steps[0].Args[0] = Arg{ArgData, 18} },
		"load across the end":      func(p *Plan) { p.Steps[1].Args[0].Value = 11 },
		"load of three bytes":      func(p *Plan) { p.Steps[1].Args[1].Value = 3 },
		"load of a register":       func(p *Plan) { p.Steps[1].Args[0] = Arg{ArgReg, 1} },
		"relocation outside":       func(p *Plan) { p.Relocs[0].At = 16 },
		"prefix too long":          func(p *Plan) { p.Prefix = 4 },
	}
	for name, breakIt := range tests {
		t.Run(name, func(t *testing.T) {
			p := samplePlan()
			breakIt(p)
			if _, err := UnmarshalPlan(p.Marshal()); !errors.Is(err, ErrPlan) {
				t.Errorf("got %v, want ErrPlan", err)
			}
		})
	}
}

func FuzzUnmarshalPlan(f *testing.F) {
	f.Add(samplePlan().Marshal())
	f.Add([]byte("cpln"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := UnmarshalPlan(b)
		if err != nil {
			return
		}
		again, err := UnmarshalPlan(p.Marshal())
		if err != nil || !reflect.DeepEqual(p.Steps, again.Steps) {
			t.Errorf("a plan that was read does not survive writing: %v", err)
		}
	})
}
