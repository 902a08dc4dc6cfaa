// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/analyze"
)

// CompareDiff says how the changes of a report differ from those between two programs at a place; nil if they do not. With
// by, other deciding rules count, too.
func CompareDiff(s *Space, before, after Decisions, r *analyze.Report, pl Place, by bool) error {
	want := map[string]Set{}
	for b, x := range before {
		for a, y := range after {
			if b.Verdict == a.Verdict && (!by || b.By.ID() == a.By.ID()) {
				continue
			}
			if set := s.And(x, y); !s.Empty(set) {
				want[b.String()+" becomes "+a.String()] = set
			}
		}
	}
	var got []claim
	for _, c := range r.Changes {
		got = append(got, claim{c.Before.String() + " becomes " + c.After.String(), c.Boxes})
	}
	return s.compare(want, got, pl)
}

// CompareWho says how an answer about all packets, whatever their verdict, differs from what becomes of those of a place;
// nil if it does not.
func CompareWho(s *Space, is Decisions, r *analyze.Answer, pl Place) error {
	want := map[string]Set{}
	for d, set := range is {
		want[d.String()] = set
	}
	var got []claim
	for _, f := range r.Flows {
		got = append(got, claim{f.Decision.String(), f.Boxes})
	}
	return s.compare(want, got, pl)
}

// claim is what an answer says of boxes.
type claim struct {
	what  string
	boxes []analyze.Box
}

// compare says how claims differ from what is so at a place. No packet may be in two boxes.
func (s *Space) compare(want map[string]Set, got []claim, pl Place) error {
	seen := s.False()
	for _, c := range got {
		all := s.False()
		for i := range c.boxes {
			box := s.Box(&c.boxes[i], pl)
			if both := s.And(seen, box); !s.Empty(both) {
				return fmt.Errorf("%+v: %s: box %d holds packets of another one: %+v", pl, c.what, i, c.boxes[i])
			}
			seen, all = s.Or(seen, box), s.Or(all, box)
		}
		is := want[c.what]
		if is == nil {
			is = s.False()
		}
		if !s.Empty(s.less(all, is)) {
			return fmt.Errorf("%+v: %s: not all of the packets in the boxes are", pl, c.what)
		}
		if !s.Empty(s.less(is, all)) {
			return fmt.Errorf("%+v: %s: some that are are not in the boxes", pl, c.what)
		}
		delete(want, c.what)
	}
	for what := range want {
		return fmt.Errorf("%+v: nobody says that there are packets that are %s", pl, what)
	}
	if s.Errored() {
		return fmt.Errorf("oracle: %s", s.Error())
	}
	return nil
}
