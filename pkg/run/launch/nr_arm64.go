package launch

const sysPrlimit64 = 261
