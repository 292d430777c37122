package relay

const sendmmsgNr = 269
