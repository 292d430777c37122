// Cais-netstack is the network of one container where the kernel cannot relay
// (no nf_tables or no tproxy in a user's namespace): a TCP of its own, gVisor's, on
// packet sockets at the host's ends of the container's devices. A monitor starts it
// with
//
//	3      the marshalled wire.Net
//	4 …    a packet socket for each interface, then a socket for each port
//
// and it ends with the monitor.
package main

import (
	"fmt"
	"io"
	"os"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"cais.dev/cais/pkg/run/wire"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cais-netstack:", err)
		os.Exit(1)
	}
}

const firstFD = 4

func run() error {
	text, err := io.ReadAll(os.NewFile(3, "net"))
	if err != nil {
		return err
	}
	n := &wire.Net{}
	if err := wire.Unmarshal(text, n); err != nil {
		return err
	}
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	sack := tcpip.TCPSACKEnabled(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: 8 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: 8 << 20}
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("tcp: %s", err)
		}
	}
	for i := range n.Interfaces {
		if err := add(s, tcpip.NICID(i+1), &n.Interfaces[i], firstFD+i); err != nil {
			return fmt.Errorf("interface %s: %w", n.Interfaces[i].Name, err)
		}
	}
	r := &relay{net: n, stack: s}
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s, 0, 1024, r.tcp).HandlePacket)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s, r.udp).HandlePacket)
	for i := range n.Ports {
		if err := r.publish(&n.Ports[i], firstFD+len(n.Interfaces)+i); err != nil {
			return fmt.Errorf("port %d: %w", n.Ports[i].HostPort, err)
		}
	}
	if _, err := os.Stdout.Write([]byte{1}); err != nil { // the monitor waits for it
		return err
	}
	s.Wait()
	return nil
}

// add makes an end of the stack on the packet socket fd, which speaks for the
// gateway and whatever is behind it.
func add(s *stack.Stack, id tcpip.NICID, w *wire.Interface, fd int) error {
	mtu := uint32(1500)
	if w.MTU > 0 {
		mtu = uint32(w.MTU)
	}
	ep, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: mtu, EthernetHeader: true, Address: tcpip.LinkAddress(gatewayMAC(w)),
		GSOMaxSize: 65536, PacketDispatchMode: fdbased.RecvMMsg,
		RXChecksumOffload: true, // TXChecksumOffload would send plain segments without a checksum
	})
	if err != nil {
		return err
	}
	if err := s.CreateNIC(id, ep); err != nil {
		return fmt.Errorf("create: %s", err)
	}
	if err := s.SetPromiscuousMode(id, true); err != nil {
		return fmt.Errorf("take any address: %s", err)
	}
	if err := s.SetSpoofing(id, true); err != nil {
		return fmt.Errorf("use any address: %s", err)
	}
	for _, a := range []struct {
		ip    []byte
		bits  int
		proto tcpip.NetworkProtocolNumber
	}{{w.Gateway4, w.Bits4, header.IPv4ProtocolNumber}, {w.Gateway6, w.Bits6, header.IPv6ProtocolNumber}} {
		if a.ip == nil {
			continue
		}
		prefix := tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(a.ip), PrefixLen: a.bits}
		if err := s.AddProtocolAddress(id, tcpip.ProtocolAddress{Protocol: a.proto, AddressWithPrefix: prefix}, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("address: %s", err)
		}
		s.AddRoute(tcpip.Route{Destination: prefix.Subnet(), NIC: id})
	}
	return nil
}

// gatewayMAC is the address that answers for the gateway: package plane's.
func gatewayMAC(w *wire.Interface) string {
	mac := []byte{2, 0x42, 0, 0, 0, 0}
	copy(mac[2:], w.Gateway4)
	if len(w.Gateway4) == 0 && len(w.Gateway6) == 16 {
		copy(mac[2:], w.Gateway6[12:])
	}
	return string(mac)
}
