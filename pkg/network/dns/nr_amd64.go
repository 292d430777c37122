package dns

const sysGetrandom = 318
