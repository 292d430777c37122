package dns

const sysGetrandom = 278
