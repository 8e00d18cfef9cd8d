package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
)

const (
	icmp, tcp, udp, icmp6, sctp = 1, 6, 17, 58, 132

	anySourcePort = 49152
	hopLimit      = 64
)

var protocols = map[string]uint8{"icmp": icmp, "tcp": tcp, "udp": udp, "icmpv6": icmp6, "sctp": sctp}

// Flow is one line of a flows file.
type Flow struct {
	Src, Dst  string
	Proto     json.RawMessage // a name or a number
	Sport     uint16
	Dport     uint16
	IcmpType  uint8 `json:"icmp_type"`
	IcmpCode  uint8 `json:"icmp_code"`
	Direction string
}

func (f *Flow) protocol() (uint8, error) {
	var number uint8
	if json.Unmarshal(f.Proto, &number) == nil {
		return number, nil
	}
	var name string
	if err := json.Unmarshal(f.Proto, &name); err != nil {
		return 0, fmt.Errorf("proto %s is neither a name nor a number", f.Proto)
	}
	number, known := protocols[name]
	if !known {
		return 0, fmt.Errorf("protocol %q is not known", name)
	}
	return number, nil
}

// frame is the flow's first packet as an Ethernet frame, its checksums zero: the programs do not look at them.
func (f *Flow) frame(file *Endpoints) ([]byte, error) {
	protocol, err := f.protocol()
	if err != nil {
		return nil, err
	}
	src, dst, err := f.ends(file)
	if err != nil {
		return nil, err
	}
	payload := f.payload(protocol)
	big := binary.BigEndian
	frame := make([]byte, 12, 128)
	if src.Is4() {
		frame = big.AppendUint16(frame, 0x0800)
		frame = append(frame, 0x45, 0)
		frame = big.AppendUint16(frame, uint16(20+len(payload)))
		frame = append(frame, 0, 0, 0, 0, hopLimit, protocol, 0, 0)
	} else {
		frame = big.AppendUint16(frame, 0x86dd)
		frame = append(frame, 0x60, 0, 0, 0)
		frame = big.AppendUint16(frame, uint16(len(payload)))
		frame = append(frame, protocol, hopLimit)
	}
	frame = append(frame, src.AsSlice()...)
	frame = append(frame, dst.AsSlice()...)
	return append(frame, payload...), nil
}

func (f *Flow) payload(protocol uint8) []byte {
	big := binary.BigEndian
	sport := f.Sport
	if sport == 0 {
		sport = anySourcePort
	}
	ports := big.AppendUint16(big.AppendUint16(nil, sport), f.Dport)
	switch protocol {
	case tcp: // a SYN with sequence number 1
		return append(ports, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, 2, 0xff, 0xff, 0, 0, 0, 0)
	case udp:
		return append(ports, 0, 8, 0, 0)
	case sctp:
		return append(ports, make([]byte, 8)...)
	case icmp, icmp6:
		return []byte{f.IcmpType, f.IcmpCode, 0, 0, 0, 1, 0, 1}
	}
	return make([]byte, 8)
}

// ends are two addresses of one family: that of the source's first address which the destination has, too.
func (f *Flow) ends(file *Endpoints) (src, dst netip.Addr, err error) {
	sources, err := file.candidates(f.Src)
	if err != nil {
		return src, dst, err
	}
	destinations, err := file.candidates(f.Dst)
	if err != nil {
		return src, dst, err
	}
	for _, src := range sources {
		for _, dst := range destinations {
			if src.Is4() == dst.Is4() {
				return src, dst, nil
			}
		}
	}
	return src, dst, fmt.Errorf("%s and %s have no address family in common", f.Src, f.Dst)
}

// candidates are the addresses that a name or an address stands for.
func (e *Endpoints) candidates(name string) ([]netip.Addr, error) {
	if name == "host" {
		return append(e.Host, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()), nil
	}
	if address, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{address}, nil
	}
	for _, endpoint := range e.Endpoints {
		if endpoint.Name == name {
			return endpoint.Addresses, nil
		}
	}
	return nil, fmt.Errorf("%q is neither an address nor a registered endpoint", name)
}
