package plane

const sysMemfdCreate = 279
