package launch

const sysPrlimit64 = 302 // package syscall of amd64 lacks it

const (
	sysMemfdCreate = 319
	sysExecveat    = 322
)
