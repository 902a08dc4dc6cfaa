// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// HostFile describes a host for tests and for explanations: what its kernel has, and how it is configured.
type HostFile struct {
	Host                      hostendpoint.Host
	WorkloadInterfacePrefixes []string // nil if the file does not say
	Forwarding                bool
	DNAT                      []DNAT
	Config                    ConfigFile
}

// DNAT is what the host's own NAT does with new connections to one address and port.
type DNAT struct {
	Protocol    inet.Protocol // TCP, UDP or SCTP
	To, Becomes netip.AddrPort
}

// ConfigFile is the configuration of the policy engine as text has it. The zero value means that the file says nothing.
type ConfigFile struct {
	Failsafes                    FailsafesFile
	AllowAction                  string // "Accept", "Return" or ""
	DenyAction                   string // "Drop", "Reject" or ""
	DisableConntrackInvalidCheck bool
	IgnoreHTTP                   bool
	ExemptLoopback               bool
}

// FailsafesFile holds the failsafe ports.
type FailsafesFile struct {
	Inbound, Outbound []FailsafePort // nil if the file does not say; empty and not nil if it says none
	NeighborDiscovery *bool          // nil if the file does not say
}

// FailsafePort is one failsafe.
type FailsafePort struct {
	Protocol inet.Protocol // TCP or UDP
	Port     uint16
	Net      netip.Prefix // of the remote side, masked; the zero value is any
}

// hostJSON is a host file as it is written.
type hostJSON struct {
	Node       string `json:"node"`
	Interfaces []struct {
		Name      string   `json:"name"`
		Addresses []string `json:"addresses"`
	} `json:"interfaces"`
	WorkloadInterfacePrefixes []string `json:"workloadInterfacePrefixes"`
	Forwarding                bool     `json:"forwarding"`
	DNAT                      []struct {
		Protocol string `json:"protocol"`
		To       string `json:"to"`
		Becomes  string `json:"becomes"`
	} `json:"dnat"`
	Config struct {
		Failsafes struct {
			Inbound           []failsafeJSON `json:"inbound"`
			Outbound          []failsafeJSON `json:"outbound"`
			NeighborDiscovery *bool          `json:"neighborDiscovery"`
		} `json:"failsafes"`
		AllowAction                  string `json:"allowAction"`
		DenyAction                   string `json:"denyAction"`
		DisableConntrackInvalidCheck bool   `json:"disableConntrackInvalidCheck"`
		IgnoreHTTP                   bool   `json:"ignoreHTTP"`
		ExemptLoopback               bool   `json:"exemptLoopback"`
	} `json:"config"`
}

type failsafeJSON struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
	Net      string `json:"net"`
}

// ParseHost reads a host file, as strictly as Parse reads resources. Failsafes are a list of {protocol, port, net}, or
// Felix's text form: "tcp:22, udp:10.0.0.0/8:68", "none". The error is a *field.Errors.
func ParseHost(src Source) (HostFile, error) { return Options{}.ParseHost(src) }

// ParseHost is the function ParseHost with these options.
func (o Options) ParseHost(src Source) (HostFile, error) {
	p := parser{opts: o.withDefaults()}
	var out HostFile
	documents := 0
	p.run([]Source{src}, func(doc *document) {
		documents++
		if documents > 1 {
			p.report(&field.Error{Pos: doc.pos(doc.root), Err: field.ErrDuplicate, Reason: "a host file is one document"})
			return
		}
		out = p.host(doc)
	})
	if documents == 0 && len(p.errs) == 0 {
		p.report(&field.Error{Pos: field.Pos{File: src.Name}, Path: "node", Err: field.ErrRequired, Reason: "the name of the node is required"})
	}
	if err := p.errs.Err(); err != nil {
		return HostFile{}, err
	}
	return out, nil
}

func (p *parser) host(doc *document) HostFile {
	d := &decoder{p: p, doc: doc, lines: map[string]int{}}
	start := doc.pos(doc.root)
	d.value(doc.root, hostFileSchema, "", start.Line)
	if d.failed || p.full {
		return HostFile{}
	}
	var in hostJSON
	if err := json.Unmarshal(d.out, &in); err != nil {
		d.fail(doc.root, "", "", field.ErrInvalid, "%v", err)
		return HostFile{}
	}
	c := hostChecker{p: p, src: field.NewSource(start, d.lines)}
	return c.host(&in)
}

// hostChecker reads the text fields of a host file.
type hostChecker struct {
	p   *parser
	src *field.Source
}

func (c *hostChecker) fail(path, value string, kind error, reason string) {
	c.p.report(&field.Error{Path: path, Pos: c.src.At(path), Value: shorten(value), Err: kind, Reason: reason})
}

func (c *hostChecker) host(in *hostJSON) HostFile {
	out := HostFile{
		Host: hostendpoint.Host{Node: in.Node}, WorkloadInterfacePrefixes: in.WorkloadInterfacePrefixes, Forwarding: in.Forwarding,
		Config: ConfigFile{
			Failsafes: FailsafesFile{
				Inbound:           c.failsafes("config.failsafes.inbound", in.Config.Failsafes.Inbound),
				Outbound:          c.failsafes("config.failsafes.outbound", in.Config.Failsafes.Outbound),
				NeighborDiscovery: in.Config.Failsafes.NeighborDiscovery,
			},
			AllowAction:                  c.word("config.allowAction", in.Config.AllowAction, "Accept", "Return"),
			DenyAction:                   c.word("config.denyAction", in.Config.DenyAction, "Drop", "Reject"),
			DisableConntrackInvalidCheck: in.Config.DisableConntrackInvalidCheck,
			IgnoreHTTP:                   in.Config.IgnoreHTTP,
			ExemptLoopback:               in.Config.ExemptLoopback,
		},
	}
	if in.Node == "" {
		c.fail("node", "", field.ErrRequired, "the name of the node is required")
	}
	for i, w := range in.WorkloadInterfacePrefixes {
		if w == "" {
			c.fail(fmt.Sprintf("workloadInterfacePrefixes[%d]", i), "", field.ErrRequired, "an empty prefix would take every interface for a workload's")
		}
	}
	seen := map[string]bool{}
	for i, ifc := range in.Interfaces {
		path := fmt.Sprintf("interfaces[%d]", i)
		switch {
		case ifc.Name == "":
			c.fail(path+".name", "", field.ErrRequired, "the name of the interface is required")
		case seen[ifc.Name]:
			c.fail(path+".name", ifc.Name, field.ErrDuplicate, "an interface of this name is there already")
		}
		seen[ifc.Name] = true
		addrs := make([]netip.Prefix, 0, len(ifc.Addresses))
		for j, text := range ifc.Addresses {
			n, err := inet.ParseNet(text)
			if err != nil {
				c.fail(fmt.Sprintf("%s.addresses[%d]", path, j), text, field.ErrInvalid, "must be an address such as 10.9.0.1/24 or 10.9.0.1")
				continue
			}
			addrs = append(addrs, netip.PrefixFrom(n.Addr, n.Prefix.Bits()))
		}
		out.Host.Interfaces = append(out.Host.Interfaces, hostendpoint.Interface{Name: ifc.Name, Addresses: addrs})
	}
	for i, t := range in.DNAT {
		path := fmt.Sprintf("dnat[%d]", i)
		n, ok := inet.ParseProtocol(t.Protocol)
		if !ok || !n.HasPorts() {
			c.fail(path+".protocol", t.Protocol, field.ErrInvalid, "must be tcp, udp or sctp")
		}
		to, becomes := c.addrPort(path+".to", t.To), c.addrPort(path+".becomes", t.Becomes)
		if to.IsValid() && becomes.IsValid() && to.Addr().Is4() != becomes.Addr().Is4() {
			c.fail(path+".becomes", t.Becomes, field.ErrInvalid, "must be of the family of "+t.To)
		}
		out.DNAT = append(out.DNAT, DNAT{Protocol: n, To: to, Becomes: becomes})
	}
	return out
}

// addrPort returns the zero value after an error.
func (c *hostChecker) addrPort(path, text string) netip.AddrPort {
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Addr().Zone() != "" || a.Port() == 0 {
		c.fail(path, text, field.ErrInvalid, "must be an address and a port, such as 10.9.0.1:80 or [fd00::1]:80")
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// word returns the one of words that text is, in any case; "" for "".
func (c *hostChecker) word(path, text string, words ...string) string {
	if text == "" {
		return ""
	}
	for _, w := range words {
		if strings.EqualFold(w, text) {
			return w
		}
	}
	c.fail(path, text, field.ErrInvalid, "must be one of "+strings.Join(words, ", "))
	return ""
}

func (c *hostChecker) failsafes(path string, in []failsafeJSON) []FailsafePort {
	if in == nil {
		return nil
	}
	out := make([]FailsafePort, 0, len(in))
	for i, f := range in {
		port, err := f.read()
		if err != nil {
			c.fail(path+"["+strconv.Itoa(i)+"]", f.Protocol, field.ErrInvalid, err.Error())
		}
		out = append(out, port)
	}
	return out
}

func (f failsafeJSON) read() (FailsafePort, error) {
	n, ok := inet.ParseProtocol(f.Protocol)
	if !ok || n != inet.TCP && n != inet.UDP {
		return FailsafePort{}, fmt.Errorf("the protocol of a failsafe is tcp or udp, not %q", shorten(f.Protocol))
	}
	out := FailsafePort{Protocol: n, Port: f.Port}
	if f.Net != "" {
		var err error
		if out.Net, err = inet.ParsePrefix(f.Net); err != nil {
			return FailsafePort{}, fmt.Errorf("the net of a failsafe is an address or a CIDR, not %q", shorten(f.Net))
		}
	}
	return out, nil
}

// failsafes appends the JSON of a list of failsafes, which may be written as Felix's text form of one.
func (d *decoder) failsafes(n *yaml.Node, s *schema, path string, line int) {
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		d.out = append(d.out, "[]"...) // not absent: it says that there are none
		return
	}
	if n.Kind != yaml.ScalarNode {
		d.listValue(n, s.elem, path, line)
		return
	}
	ports, err := parseFailsafes(n.Value)
	if err != nil {
		d.fail(n, path, n.Value, field.ErrInvalid, "%v", err)
		d.null()
		return
	}
	if ports == nil {
		d.null()
		return
	}
	d.out = append(d.out, '[')
	for i, f := range ports {
		if i > 0 {
			d.out = append(d.out, ',')
		}
		d.out = append(d.out, `{"protocol":`...)
		d.quote(f.Protocol)
		d.out = strconv.AppendUint(append(d.out, `,"port":`...), uint64(f.Port), 10)
		d.out = append(d.out, `,"net":`...)
		d.quote(f.Net)
		d.out = append(d.out, '}')
	}
	d.out = append(d.out, ']')
}

// parseFailsafes reads Felix's text form: entries "port", "protocol:port" and "protocol:net:port" with commas; "none"
// for no failsafes. It returns nil for "", which keeps the default. Empty entries, as behind a last comma, say nothing; a
// text of nothing else is an error, because Felix would close the host to all for it.
// Ref: felix/config/param_types.go, PortListParam.
func parseFailsafes(s string) ([]failsafeJSON, error) {
	if s = strings.TrimSpace(s); s == "" {
		return nil, nil
	}
	out := []failsafeJSON{}
	if strings.EqualFold(s, "none") {
		return out, nil
	}
	for entry := range strings.SplitSeq(s, ",") {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		f := failsafeJSON{Protocol: "tcp"}
		rest := entry
		if protocol, after, ok := strings.Cut(entry, ":"); ok {
			f.Protocol, rest = strings.ToLower(protocol), after
		}
		if i := strings.LastIndexByte(rest, ':'); i >= 0 {
			f.Net, rest = rest[:i], rest[i+1:]
			if inner, ok := strings.CutPrefix(f.Net, "["); ok {
				if f.Net, ok = strings.CutSuffix(inner, "]"); !ok {
					return nil, fmt.Errorf("failsafe %q: the bracket is not closed", shorten(entry))
				}
			} else if strings.Contains(f.Net, ":") {
				return nil, fmt.Errorf("failsafe %q: an IPv6 net stands in brackets", shorten(entry))
			}
			if f.Net == "" {
				return nil, fmt.Errorf("failsafe %q: the net is empty", shorten(entry))
			}
		}
		port, err := strconv.ParseUint(rest, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("failsafe %q: an entry is port, protocol:port or protocol:net:port", shorten(entry))
		}
		f.Port = uint16(port)
		if _, err := f.read(); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf(`%q names no failsafe; "none" is for those who want none`, shorten(s))
	}
	return out, nil
}
