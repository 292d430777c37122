package launch

const sysPrlimit64 = 261

const (
	sysMemfdCreate = 279
	sysExecveat    = 281
)
