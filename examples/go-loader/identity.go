package main

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	selected      = 1 // some enforced policy selects it
	selectedAudit = 2 // some policy, enforced or audited, does
	groupLists    = 6 // [direction * 3 + tier]
)

var (
	directions = []string{"ingress", "egress"}
	tiers      = []string{"admin", "normal", "baseline"}
)

// holds: `!=` and `not in` also hold when the key is absent.
func (r Requirement) holds(labels map[string]string) (bool, error) {
	value, present := labels[r.Key]
	listed := present && slices.Contains(r.Values, value)
	switch r.Op {
	case "==", "in":
		return listed, nil
	case "!=", "not in":
		return !listed, nil
	case "exists":
		return present, nil
	case "not exists":
		return !present, nil
	}
	return false, fmt.Errorf("unknown operator %q", r.Op)
}

// selects: all requirements hold; the empty selector selects every endpoint.
func selects(selector []Requirement, labels map[string]string) (bool, error) {
	for _, requirement := range selector {
		if ok, err := requirement.holds(labels); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// identities makes identity records under one manifest.
type identities struct {
	manifest *Manifest
	numbers  map[string]uint64 // label value → the number that stands for it in `same`
}

func newIdentities(manifest *Manifest) *identities {
	return &identities{manifest, map[string]uint64{}}
}

// size is the value size of the map `identities`.
func (i *identities) size() int {
	return i.sameOffset() + 8*i.manifest.IdentityLayout.SameKeys
}

func (i *identities) groupsOffset() int { return 32 + 4*i.manifest.IdentityLayout.MaxPeers }

func (i *identities) sameOffset() int {
	return (i.groupsOffset() + 4*groupLists*i.manifest.IdentityLayout.MaxGroups + 7) &^ 7
}

// host is the record of this machine, which no selector selects.
func (i *identities) host() ([]byte, error) {
	return i.pack(nil, []Subject{hostSubject}, nil)
}

// endpoint is the record of an endpoint with these labels.
func (i *identities) endpoint(labels map[string]string) ([]byte, error) {
	var peers []uint32
	var subjects []Subject
	for index, selector := range i.manifest.Selectors {
		ok, err := selects(selector, labels)
		if err != nil {
			return nil, err
		}
		if ok {
			peers = append(peers, uint32(index))
			subjects = append(subjects, Subject(index))
		}
	}
	return i.pack(peers, subjects, labels)
}

func (i *identities) pack(peers []uint32, subjects []Subject, labels map[string]string) ([]byte, error) {
	layout := i.manifest.IdentityLayout
	record := make([]byte, i.size())
	put := binary.LittleEndian.PutUint32
	if len(peers) > layout.MaxPeers {
		return nil, fmt.Errorf("%d selectors match, the program has room for %d", len(peers), layout.MaxPeers)
	}
	put(record[0:], i.flags(subjects))
	put(record[4:], uint32(len(peers)))
	for n, peer := range peers {
		put(record[32+4*n:], peer)
	}
	var counts [groupLists]int
	for index, group := range i.manifest.Groups { // ascending, as the record has them
		if !slices.Contains(subjects, group.Subject) {
			continue
		}
		list := 3*slices.Index(directions, group.Direction) + slices.Index(tiers, group.Tier)
		if counts[list] == layout.MaxGroups {
			return nil, fmt.Errorf("more groups select it than the program's %d", layout.MaxGroups)
		}
		put(record[i.groupsOffset()+4*(list*layout.MaxGroups+counts[list]):], uint32(index))
		counts[list]++
	}
	for list, count := range counts {
		put(record[8+4*list:], uint32(count))
	}
	for n, key := range i.manifest.SameKeys {
		if value, ok := labels[key]; ok {
			binary.LittleEndian.PutUint64(record[i.sameOffset()+8*n:], i.number(value))
		}
	}
	return record, nil
}

func (i *identities) flags(subjects []Subject) (flags uint32) {
	for _, policy := range i.manifest.Selected {
		if !slices.Contains(subjects, policy.Subject) {
			continue
		}
		flags |= selectedAudit
		if policy.Enforced {
			flags |= selected
		}
	}
	return flags
}

// number is never 0, equal for equal values and different for different ones.
func (i *identities) number(value string) uint64 {
	if _, known := i.numbers[value]; !known {
		i.numbers[value] = uint64(len(i.numbers)) + 1
	}
	return i.numbers[value]
}
