package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
)

const (
	loopback = 1 // its interface index

	skbSize    = 192 // struct __sk_buff
	skbIfindex = 40

	actUnspec = 0xffffffff // TC_ACT_UNSPEC: passed, other filters are asked, too
	actShot   = 2

	eventSize = 88
	noRule    = 0xffffffff
)

var reasons = []string{
	"none", "rule", "default", "no-policy", "no-subject", "unregistered", "spoofed-source", "established", "related",
	"l7-entry", "l7-no-entry", "l7-malformed", "l7-not-seen", "fragment", "malformed", "table-full", "not-ready",
}

// Verdict is one packet's, as `policyc eval` prints it. Rule is file:line:column.
type Verdict struct {
	Verdict string  `json:"verdict"`
	Rule    *string `json:"rule"`
	Ref     *string `json:"ref"`
	Reason  string  `json:"reason"`
}

// tester runs packets through the tc programs as if they were attached to an uplink.
type tester struct {
	artifact   *Artifact
	endpoints  *Endpoints
	collection *ebpf.Collection
	events     *ringbuf.Reader
}

// testRun judges the flows of a file, one JSON object a line, and prints a verdict a line.
func testRun(artifact *Artifact, file *Endpoints, flows io.Reader, out io.Writer) error {
	points := []Point{{Ifindex: loopback}}
	collection, err := load(artifact, file, file.Host, points, eventsTrace)
	if err != nil {
		return err
	}
	defer collection.Close()
	events, err := ringbuf.NewReader(collection.Maps["events"])
	if err != nil {
		return err
	}
	defer events.Close()
	t := &tester{artifact, file, collection, events}
	lines, answers := bufio.NewScanner(flows), json.NewEncoder(out)
	for number := 1; lines.Scan(); number++ {
		verdict, err := t.judge(lines.Bytes())
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if err := answers.Encode(verdict); err != nil {
			return err
		}
	}
	return lines.Err()
}

// judge asks egress at the source, then ingress at the destination: both must allow.
func (t *tester) judge(line []byte) (Verdict, error) {
	var flow Flow
	if err := json.Unmarshal(line, &flow); err != nil {
		return Verdict{}, err
	}
	frame, err := flow.frame(t.endpoints)
	if err != nil {
		return Verdict{}, err
	}
	var steps []Verdict
	for _, direction := range []string{"egress", "ingress"} {
		if flow.Direction != "" && flow.Direction != direction {
			continue
		}
		step, err := t.step("policyc_tc_"+direction, frame)
		if err != nil {
			return Verdict{}, err
		}
		steps = append(steps, step)
	}
	return top(steps), nil
}

// top is the first step that denies, else the last that a rule decided, else the last.
func top(steps []Verdict) Verdict {
	last := steps[len(steps)-1]
	for n := len(steps) - 1; n >= 0; n-- {
		if last.Rule == nil && steps[n].Rule != nil {
			last = steps[n]
		}
	}
	for _, step := range steps {
		if step.Verdict == "deny" {
			return step
		}
	}
	return last
}

func (t *tester) step(program string, frame []byte) (Verdict, error) {
	if err := t.forget(); err != nil {
		return Verdict{}, err
	}
	context := make([]byte, skbSize)
	binary.LittleEndian.PutUint32(context[skbIfindex:], loopback)
	code, err := t.collection.Programs[program].Run(&ebpf.RunOptions{Data: frame, Context: context})
	if err != nil {
		return Verdict{}, err
	}
	verdict, err := t.event()
	if err != nil {
		return Verdict{}, err
	}
	if want := map[string]uint32{"allow": actUnspec, "deny": actShot}[verdict.Verdict]; code != want {
		return Verdict{}, fmt.Errorf("%s returned %d and reported %s", program, int32(code), verdict.Verdict)
	}
	return verdict, nil
}

// forget empties the connection tables: each flow is the first packet of a new connection.
func (t *tester) forget() error {
	for _, name := range []string{"ct4", "ct6", "frags"} {
		table := t.collection.Maps[name]
		var keys [][]byte
		var key, value []byte
		entries := table.Iterate()
		for entries.Next(&key, &value) {
			keys = append(keys, append([]byte(nil), key...))
		}
		if err := entries.Err(); err != nil {
			return err
		}
		for _, key := range keys {
			if err := table.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return err
			}
		}
	}
	return nil
}

// event reads what the program reported of the packet.
func (t *tester) event() (Verdict, error) {
	t.events.SetDeadline(time.Now().Add(time.Second))
	record, err := t.events.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return Verdict{}, errors.New("the program reported nothing")
	}
	if err != nil {
		return Verdict{}, err
	}
	if len(record.RawSample) < eventSize {
		return Verdict{}, fmt.Errorf("an event of %d bytes", len(record.RawSample))
	}
	verdict := Verdict{Verdict: "deny", Reason: reasons[record.RawSample[11]]}
	if record.RawSample[10] == 1 {
		verdict.Verdict = "allow"
	}
	if rank := binary.LittleEndian.Uint32(record.RawSample[16:]); rank != noRule {
		place, ref, err := t.artifact.Manifest.rule(rank)
		if err != nil {
			return Verdict{}, err
		}
		verdict.Rule, verdict.Ref = &place, &ref
	}
	return verdict, nil
}
