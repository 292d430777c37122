// Package nft writes nftables' messages: tables with their flags, chains, rules
// as lists of expressions. Names and numbers are those of
// linux/netfilter/nf_tables.h. Names must not be words of nft's language (dnat,
// fwd, map): the kernel takes them and the nft program then cannot read its own
// listing.
package nft

import (
	"cais.dev/cais/pkg/network/netlink"
)

// The families of tables.
const (
	Inet   = 1
	IP     = 2
	Bridge = 7
	IP6    = 10
)

// Owner makes a table vanish with the socket that made it, and keeps everybody
// else from changing it; Linux 5.12.
const Owner = 2

// The hooks of ip, ip6 and inet.
const (
	Prerouting  = 0
	Input       = 1
	Forward     = 2
	Output      = 3
	Postrouting = 4
)

// Policies, and verdicts of rules.
const (
	Drop   = 0
	Accept = 1
)

const (
	newTable = 0xa00
	getTable = 0xa01
	delTable = 0xa02
	newChain = 0xa03
	getChain = 0xa04
	newRule  = 0xa06
	getRule  = 0xa07
	delRule  = 0xa08
	create   = 0x400
	excl     = 0x200
	appendTo = 0x800
)

func begin(what string, typ, flags uint16, family byte) *netlink.Message {
	return netlink.New(what, typ, flags).Raw(family, 0, 0, 0)
}

// Table adds a table. With new it must not be there.
func Table(family byte, name string, flags uint32, new bool) *netlink.Message {
	f := uint16(create)
	if new {
		f |= excl
	}
	return begin("add the nftables table "+name, newTable, f, family).Text(1, name).BE32(2, flags)
}

// DeleteTable removes a table with all that is in it.
func DeleteTable(family byte, name string) *netlink.Message {
	return begin("remove the nftables table "+name, delTable, 0, family).Text(1, name)
}

// GetTables asks for all tables of a family.
func GetTables(family byte) *netlink.Message {
	return begin("list the nftables tables", getTable, 0x300, family)
}

// GetChain asks for a chain.
func GetChain(family byte, table, name string) *netlink.Message {
	return begin("find the nftables chain "+name, getChain, 0, family).Text(1, table).Text(3, name)
}

// GetChains asks for all chains of all families.
func GetChains() *netlink.Message {
	return begin("list the nftables chains", getChain, 0x300, 0)
}

// GetRules asks for the rules of a chain.
func GetRules(family byte, table, chain string) *netlink.Message {
	return begin("list the nftables chain "+chain, getRule, 0x300, family).Text(1, table).Text(2, chain)
}

// Base adds a chain that is hooked into the kernel's way of a packet. kind is
// filter, nat or route.
func Base(family byte, table, name, kind string, hook uint32, priority int32, policy uint32) *netlink.Message {
	return begin("add the nftables chain "+name, newChain, create, family).Text(1, table).Text(3, name).
		Nest(4).BE32(1, hook).BE32(2, uint32(priority)).End().
		BE32(5, policy).Text(7, kind)
}

// Expr adds one expression to a rule.
type Expr func(*netlink.Message)

// Rule adds a rule at the end of a chain.
func Rule(family byte, table, chain string, exprs ...Expr) *netlink.Message {
	return rule(create|appendTo, family, table, chain, "", exprs)
}

// InsertRule adds a rule at the front of a chain. The comment is shown by nft and
// iptables-nft.
func InsertRule(family byte, table, chain, comment string, exprs ...Expr) *netlink.Message {
	return rule(create, family, table, chain, comment, exprs)
}

// DeleteRule removes the rule with a handle, as the kernel tells it.
func DeleteRule(family byte, table, chain string, handle []byte) *netlink.Message {
	return begin("remove a rule of "+chain, delRule, 0, family).Text(1, table).Text(2, chain).Attr(3, handle...)
}

func rule(flags uint16, family byte, table, chain, comment string, exprs []Expr) *netlink.Message {
	m := begin("add a rule to the nftables chain "+table+" "+chain, newRule, flags, family).Text(1, table).Text(2, chain)
	m.Nest(4)
	for _, e := range exprs {
		e(m)
	}
	m.End()
	if comment != "" {
		m.Attr(7, Comment(comment)...)
	}
	return m
}

// Comment is a rule's user data that nft prints as a comment.
func Comment(text string) []byte {
	b := append([]byte{0, byte(len(text) + 1)}, text...) // NFTNL_UDATA_RULE_COMMENT
	return append(b, 0)
}

// expr writes one expression.
func expr(name string, data func(*netlink.Message)) Expr {
	return func(m *netlink.Message) {
		m.Nest(1).Text(1, name).Nest(2)
		data(m)
		m.End().End()
	}
}

// The keys of Meta.
const (
	MetaMark    = 3
	MetaIIF     = 4
	MetaIIFName = 6
	MetaOIFName = 7
	MetaNFProto = 15
	MetaL4Proto = 16
)

// Meta loads something about the packet into register reg.
func Meta(key, reg uint32) Expr {
	return expr("meta", func(m *netlink.Message) { m.BE32(2, key).BE32(1, reg) })
}

// SetMeta sets something about the packet from register reg.
func SetMeta(key, reg uint32) Expr {
	return expr("meta", func(m *netlink.Message) { m.BE32(2, key).BE32(3, reg) })
}

// The headers of Payload.
const (
	Network   = 1
	Transport = 2
)

// Payload loads n bytes of a header into register reg.
func Payload(base, offset, n, reg uint32) Expr {
	return expr("payload", func(m *netlink.Message) { m.BE32(1, reg).BE32(2, base).BE32(3, offset).BE32(4, n) })
}

// SetPort writes register reg into two bytes of the transport header, and
// mends the checksum at csum.
func SetPort(offset, csum, reg uint32) Expr {
	return expr("payload", func(m *netlink.Message) {
		m.BE32(5, reg).BE32(2, Transport).BE32(3, offset).BE32(4, 2).BE32(6, 1).BE32(7, csum).BE32(8, 0)
	})
}

// Eq goes on if register reg holds v.
func Eq(reg uint32, v ...byte) Expr { return cmp(0, reg, v) }

// Ne goes on if register reg holds something else than v.
func Ne(reg uint32, v ...byte) Expr { return cmp(1, reg, v) }

func cmp(op, reg uint32, v []byte) Expr {
	return expr("cmp", func(m *netlink.Message) { m.BE32(1, reg).BE32(2, op).Nest(3).Attr(1, v...).End() })
}

// And masks register reg.
func And(reg uint32, mask ...byte) Expr {
	return expr("bitwise", func(m *netlink.Message) {
		m.BE32(1, reg).BE32(2, reg).BE32(3, uint32(len(mask)))
		m.Nest(4).Attr(1, mask...).End()
		m.Nest(5).Attr(1, make([]byte, len(mask))...).End()
	})
}

// Set puts v into register reg.
func Set(reg uint32, v ...byte) Expr {
	return expr("immediate", func(m *netlink.Message) { m.BE32(1, reg).Nest(2).Attr(1, v...).End() })
}

// Verdict ends the rule with Accept or Drop.
func Verdict(code uint32) Expr {
	return expr("immediate", func(m *netlink.Message) { m.BE32(1, 0).Nest(2).Nest(2).BE32(1, code).End().End() })
}

// TProxy gives the packet to the transparent socket at the address and port in
// two registers, unless a connection's own socket is there.
func TProxy(family byte, addr, port uint32) Expr {
	return expr("tproxy", func(m *netlink.Message) { m.BE32(1, uint32(family)).BE32(2, addr).BE32(3, port) })
}

// RejectReset answers with TCP's reset.
func RejectReset() Expr {
	return expr("reject", func(m *netlink.Message) { m.BE32(1, 1).Attr(2, 0) })
}

// RejectICMP answers that the destination cannot be reached, with the family's
// own code.
func RejectICMP(code byte) Expr {
	return expr("reject", func(m *netlink.Message) { m.BE32(1, 0).Attr(2, code) })
}

// RejectUnreachable answers in a table of both families that the host cannot be
// reached.
func RejectUnreachable() Expr {
	return expr("reject", func(m *netlink.Message) { m.BE32(1, 2).Attr(2, 2) })
}

// Queue hands the packet to the program that listens at queue num, or, with
// bypass, on to the next rule if nobody does.
func Queue(num uint16, bypass bool) Expr {
	flags := byte(0)
	if bypass {
		flags = 1
	}
	return expr("queue", func(m *netlink.Message) {
		m.Attr(1, byte(num>>8), byte(num)).Attr(2, 0, 1).Attr(3, 0, flags)
	})
}

// QueueCompat is Queue by the target of iptables, for kernels without
// CONFIG_NFT_QUEUE. Revision 2 knows bypass, 3 flags.
func QueueCompat(num uint16, bypass bool) Expr {
	info := []byte{byte(num), byte(num >> 8), 1, 0, 0, 0, 0, 0}
	if bypass {
		info[4] = 1
	}
	return expr("target", func(m *netlink.Message) { m.Text(1, "NFQUEUE").BE32(2, 2).Attr(3, info...) })
}

// The results and flags of FIB.
const (
	FIBOif      = 1
	FIBAddrType = 3
	FIBSaddr    = 1
	FIBDaddr    = 2
	FIBIif      = 8
)

// The address types of FIB, as four bytes of this machine's order.
const (
	TypeUnicast = 1
	TypeLocal   = 2
)

// FIB looks an address up in the routes: the result goes to register reg.
func FIB(result, flags, reg uint32) Expr {
	return expr("fib", func(m *netlink.Message) { m.BE32(1, reg).BE32(2, result).BE32(3, flags) })
}

// DNAT changes the destination to the address and port in two registers.
func DNAT(family byte, addr, port uint32) Expr {
	return expr("nat", func(m *netlink.Message) { m.BE32(1, 1).BE32(2, uint32(family)).BE32(3, addr).BE32(5, port) })
}

// Masquerade changes the source to the address of the device that the packet
// leaves by.
func Masquerade() Expr { return expr("masq", func(*netlink.Message) {}) }

// The keys of CT.
const (
	CTState  = 0
	CTStatus = 2
)

// What CT tells, as bits in four bytes of this machine's order.
const (
	New         = 8
	Established = 2
	Related     = 4
	StatusDNAT  = 32
)

// CT loads something about the packet's connection into register reg.
func CT(key, reg uint32) Expr {
	return expr("ct", func(m *netlink.Message) { m.BE32(1, reg).BE32(2, key) })
}

// Has goes on if one of bits is set in register reg.
func Has(reg uint32, bits byte) []Expr {
	return []Expr{And(reg, bits, 0, 0, 0), Ne(reg, 0, 0, 0, 0)}
}

// Name is a device's name as Meta compares it.
func Name(device string) []byte {
	b := make([]byte, 16)
	copy(b[:15], device)
	return b
}

// All joins lists of expressions.
func All(lists ...[]Expr) []Expr {
	var all []Expr
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}
