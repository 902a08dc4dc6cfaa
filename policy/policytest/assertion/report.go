// SPDX-License-Identifier: Apache-2.0

package assertion

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Report is the result of a Run.
type Report struct {
	Results []Result // in the order of the tests
	Failed  int      // how many of them do not hold, or could not be asked
	Packets int      // how many packets they came to
	Rules   []Rule   // all rules that some host enforces, sorted by file, line and origin
}

// Result is what became of one test.
type Result struct {
	Name     string // the test's, or one made of what it says
	Test     *manifest.Test
	Packets  int
	Failed   int       // packets that fared differently
	Failures []Failure // the first of them
	Err      error     // a *field.Error if the test could not be asked; nil otherwise
}

// OK reports whether the test holds.
func (r *Result) OK() bool { return r.Err == nil && r.Failed == 0 }

// Failure is a packet that did not fare as its test says.
type Failure struct {
	From, To string // as the test named them
	Node     string // where it was decided
	Packet   string // as policytest.FormatPacket writes it
	Verdict  flow.Verdict
	By       flow.Origin
}

// Rule is a rule of a policy or profile, and what the tests had to do with it.
type Rule struct {
	Origin  flow.Origin // with its position; the stage is always normal
	Action  hostendpoint.Action
	Packets int // that it matched; 0 if no test got as far as that
}

// Covered returns how many of the rules some test decided something by.
func (r *Report) Covered() int {
	n := 0
	for i := range r.Rules {
		if r.Rules[i].Packets > 0 {
			n++
		}
	}
	return n
}

func compareRules(a, b Rule) int {
	x, y := a.Origin, b.Origin
	return cmp.Or(strings.Compare(x.Pos.File, y.Pos.File), cmp.Compare(x.Pos.Line, y.Pos.Line), cmp.Compare(x.Kind, y.Kind),
		strings.Compare(x.Tier, y.Tier), strings.Compare(x.Name, y.Name), cmp.Compare(x.Dir, y.Dir), cmp.Compare(x.Index, y.Index))
}

// collectRules adds the rules that a host enforces, by identity.
func collectRules(out map[flow.Origin]Rule, s *policy.Snapshot) {
	add := func(o flow.Origin, rules []policy.Rule) {
		for _, r := range rules {
			o.Index, o.Pos = r.Index, r.Pos
			out[o.ID()] = Rule{Origin: o, Action: r.Action}
		}
	}
	eps := s.Endpoints
	if s.Wildcard != nil {
		eps = append(eps[:len(eps):len(eps)], s.Wildcard)
	}
	for _, ep := range eps {
		for _, stage := range [][]policy.TierPolicies{ep.Untracked, ep.PreDNAT, ep.Normal, ep.Forward} {
			for _, t := range stage {
				for dir, list := range [][]*policy.Policy{t.Ingress, t.Egress} {
					for _, p := range list {
						o := flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: flow.Direction(dir)}
						rules := p.Ingress
						if o.Dir == flow.Egress {
							rules = p.Egress
						}
						add(o, rules)
					}
				}
			}
		}
	}
	for _, p := range s.Profiles {
		o := flow.Origin{Kind: flow.OriginProfile, Name: p.Name}
		add(o, p.Ingress)
		o.Dir = flow.Egress
		add(o, p.Egress)
	}
}

// origins are the beginnings of the texts of origins.
var origins = [...]string{"policy:", "profile:", "tier:", "default:", "failsafe:", "conntrack:", "profile-missing:"}

// checkOrigin reports whether some origin can begin with text; "" is fine.
func checkOrigin(text string) error {
	if text == "" {
		return nil
	}
	if _, err := flow.ParseOrigin(text); err == nil {
		return nil
	}
	for _, o := range origins {
		if strings.HasPrefix(text, o) || text+":" == o {
			return nil
		}
	}
	return errors.New("must be an origin such as policy:TIER/NAME/ingress[0], tier:TIER/ingress or failsafe:in/tcp/22, or the beginning of one")
}

// isOrigin reports whether o is text, or begins with it and then with something that text leaves open.
func isOrigin(text string, o flow.Origin) bool {
	rest, ok := strings.CutPrefix(o.String(), text)
	return ok && (rest == "" || strings.IndexByte("/[@:", rest[0]) >= 0 || strings.HasSuffix(text, ":") || strings.HasSuffix(text, "/"))
}

// testName returns the name of a test, or what it says in few words.
func testName(t *manifest.Test) string {
	switch {
	case t.Name != "":
		return t.Name
	case t.Packet != "":
		return t.Packet + " on " + t.Node + ": " + t.Expect
	}
	side := func(ps []manifest.Peer) string {
		var out []string
		for _, p := range ps {
			out = append(out, peerText(p))
		}
		return strings.Join(out, ", ")
	}
	s := side(t.From) + " to " + side(t.To)
	if t.Protocol != nil {
		s += " " + strings.ToLower(t.Protocol.String())
	}
	var ports []string
	for _, p := range t.Ports {
		ports = append(ports, p.String())
	}
	if len(ports) > 0 {
		s += " " + strings.Join(ports, ",")
	}
	return s + ": " + t.Expect
}

// String says what was wanted, and what came; "" if the test holds.
func (r *Result) String() string {
	var b strings.Builder
	var fe *field.Error
	switch {
	case errors.As(r.Err, &fe):
		x := *fe
		x.Pos = field.Pos{} // the test's own is known
		b.WriteString(x.Error())
	case r.Err != nil:
		b.WriteString(r.Err.Error())
	case r.Failed > 0:
		want := r.Test.Expect
		if r.Test.By != "" {
			want += " by " + r.Test.By
		}
		fmt.Fprintf(&b, "want %s", want)
		for _, f := range r.Failures {
			fmt.Fprintf(&b, "\n%s", f.String())
		}
		if more := r.Failed - len(r.Failures); more > 0 {
			fmt.Fprintf(&b, "\nand %d more of %d packets", more, r.Packets)
		}
	}
	return b.String()
}

// String returns the failure on one line: "deny by ORIGIN (FILE:LINE): PACKET on NODE (FROM to TO)".
func (f *Failure) String() string {
	s := f.Verdict.String()
	if f.By != (flow.Origin{}) {
		s += " by " + f.By.String()
	}
	if pos := f.By.Pos.String(); pos != "" {
		s += " (" + pos + ")"
	}
	s += ": " + f.Packet + " on " + f.Node
	if names := f.From + " to " + f.To; !strings.Contains(f.Packet, f.From) || !strings.Contains(f.Packet, f.To) {
		s += " (" + names + ")"
	}
	return s
}

// The elements of a JUnit report, as CI systems read them. Ref: https://github.com/testmoapp/junitxml.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		File    string        `xml:"file,attr,omitempty"`
		Line    int           `xml:"line,attr,omitempty"`
		Failure *junitMessage `xml:"failure"`
		Error   *junitMessage `xml:"error"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML, one suite for each file. It holds no times: the same report is the same
// text.
func (r *Report) WriteJUnit(w io.Writer) error {
	var doc junitSuites
	for i := range r.Results {
		x := &r.Results[i]
		file := x.Test.Pos.File
		n := len(doc.Suites)
		if n == 0 || doc.Suites[n-1].Name != file {
			doc.Suites = append(doc.Suites, junitSuite{Name: file})
			n++
		}
		suite := &doc.Suites[n-1]
		c := junitCase{Name: printable(x.Name), Class: file, File: file, Line: x.Test.Pos.Line}
		if !x.OK() {
			text := printable(x.String())
			first, _, _ := strings.Cut(text, "\n")
			m := &junitMessage{Message: first, Text: text}
			if x.Err != nil {
				c.Error = m
				suite.Errors++
				doc.Errors++
			} else {
				c.Failure = m
				suite.Failures++
				doc.Failures++
			}
		}
		suite.Tests++
		doc.Tests++
		suite.Cases = append(suite.Cases, c)
	}
	b, err := xml.MarshalIndent(&doc, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, xml.Header+string(b)+"\n")
	return err
}

// printable replaces what XML cannot hold.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}
