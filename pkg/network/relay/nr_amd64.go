package relay

const sendmmsgNr = 307
