package main

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
)

const (
	manifestSection = "policyc.manifest"
	digestSection   = "policyc.digest"
	digestTag       = "policyc-sha256:\x00"
	formatMajor     = 1
	formatMinor     = 1
)

// Requirement is one condition of a selector: [key, operator, [values]] in the manifest.
type Requirement struct {
	Key, Op string
	Values  []string
}

func (r *Requirement) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, &[]any{&r.Key, &r.Op, &r.Values})
}

// Span is a place in a source: index into SpanFiles, line, column, end line, end column.
type Span [5]int

// Subject is who a group is for: a selector's index, or host (-1).
type Subject int

const hostSubject Subject = -1

func (s *Subject) UnmarshalJSON(text []byte) error {
	if string(text) == `"host"` {
		*s = hostSubject
		return nil
	}
	return json.Unmarshal(text, (*int)(s))
}

// Manifest holds the fields that this loader needs; docs/artifact.md lists all.
type Manifest struct {
	Format    string
	Version   string
	Mandatory []string
	SpanFiles []string `json:"span_files"`
	Rules     []struct {
		Ref  string
		Span Span
	}
	Selectors [][]Requirement
	SameKeys  []string `json:"same_keys"`
	Groups    []struct {
		Direction, Tier string
		Subject         Subject
	}
	Selected []struct {
		Subject  Subject
		Enforced bool
	}
	IdentityLayout struct {
		MaxPeers  int `json:"max_peers"`
		MaxGroups int `json:"max_groups"`
		SameKeys  int `json:"same_keys"`
	} `json:"identity_layout"`
	StreamHooks []struct{ Program string } `json:"stream_hooks"`
}

// Artifact is a checked object: its bytes and what its manifest says.
type Artifact struct {
	Object   []byte
	Manifest Manifest
}

// readArtifact refuses what docs/artifact.md says a reader refuses, in that order.
func readArtifact(path string) (*Artifact, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if file.Machine != elf.EM_BPF || file.Class != elf.ELFCLASS64 || file.Data != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("%s is no little-endian BPF object", path)
	}
	manifest, err := only(file, manifestSection)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := checkDigest(file, data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	text, err := manifest.Data()
	if err != nil {
		return nil, err
	}
	artifact := &Artifact{Object: data}
	if err := json.Unmarshal(text, &artifact.Manifest); err != nil {
		return nil, fmt.Errorf("%s: its manifest: %w", path, err)
	}
	if err := artifact.Manifest.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return artifact, nil
}

func only(file *elf.File, name string) (*elf.Section, error) {
	var found []*elf.Section
	for _, section := range file.Sections {
		if section.Name == name {
			found = append(found, section)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("it has %d sections %s, not one", len(found), name)
	}
	return found[0], nil
}

// checkDigest compares the last 32 bytes of the digest's section with the SHA-256 of the file in which they are zero.
func checkDigest(file *elf.File, data []byte) error {
	section, err := only(file, digestSection)
	if err != nil {
		return err
	}
	end := section.Offset + section.Size
	if section.Size != 64 || end > uint64(len(data)) || !bytes.HasPrefix(data[section.Offset:], []byte(digestTag)) {
		return errors.New("its digest is malformed")
	}
	digest := sha256.New()
	digest.Write(data[:end-sha256.Size])
	digest.Write(make([]byte, sha256.Size))
	digest.Write(data[end:])
	if !bytes.Equal(digest.Sum(nil), data[end-sha256.Size:end]) {
		return errors.New("it was altered or truncated after it was compiled")
	}
	return nil
}

func (m *Manifest) check() error {
	var major, minor int
	if _, err := fmt.Sscanf(m.Version, "%d.%d", &major, &minor); m.Format != "policyc-artifact" || err != nil {
		return errors.New("its manifest is no policyc manifest")
	}
	if major != formatMajor || minor > formatMinor {
		return fmt.Errorf("its format %s is not %d.%d", m.Version, formatMajor, formatMinor)
	}
	for _, section := range m.Mandatory {
		if !slices.Contains([]string{manifestSection, digestSection}, section) {
			return fmt.Errorf("it needs section %s, which this loader does not know", section)
		}
	}
	if len(m.StreamHooks) > 0 {
		return errors.New("it has L7 rules, and this loader attaches no programs that judge streams")
	}
	return nil
}

// rule says where the rule of a rank stands: file:line:column and its reference.
func (m *Manifest) rule(rank uint32) (place, ref string, err error) {
	if int(rank) >= len(m.Rules) {
		return "", "", fmt.Errorf("no rule has rank %d", rank)
	}
	rule := m.Rules[rank]
	return fmt.Sprintf("%s:%d:%d", m.SpanFiles[rule.Span[0]], rule.Span[1], rule.Span[2]), rule.Ref, nil
}
