package plane

const sysMemfdCreate = 319
