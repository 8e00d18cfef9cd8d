// A second loader for policyc's objects: it knows nothing but docs/artifact.md.
//
//	go-loader test-run -endpoints e.yaml -flows flows.jsonl x.o
//	go-loader attach -endpoints e.yaml [-workload DEVICE=ENDPOINT]… [-uplink DEVICE]… x.o
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

const usage = `usage: go-loader test-run -endpoints FILE -flows FILE x.o
       go-loader attach -endpoints FILE [-workload DEVICE=ENDPOINT]… [-uplink DEVICE]… [-bpffs FOLDER] x.o`

// list is an option that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "go-loader:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New(usage)
	}
	var workloads, uplinks list
	flags := flag.NewFlagSet(arguments[0], flag.ContinueOnError)
	endpoints := flags.String("endpoints", "", "the endpoints file")
	flows := flags.String("flows", "/dev/stdin", "flows, one JSON object a line")
	bpffs := flags.String("bpffs", "/sys/fs/bpf", "a folder on a bpf file system")
	flags.Var(&workloads, "workload", "the host's end of an endpoint's link")
	flags.Var(&uplinks, "uplink", "a device of this machine")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	if flags.NArg() != 1 || *endpoints == "" {
		return errors.New(usage)
	}
	artifact, err := readArtifact(flags.Arg(0))
	if err != nil {
		return err
	}
	file, err := readEndpoints(*endpoints)
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "test-run":
		input, err := os.Open(*flows)
		if err != nil {
			return err
		}
		defer input.Close()
		return testRun(artifact, file, input, os.Stdout)
	case "attach":
		if len(workloads)+len(uplinks) == 0 {
			return errors.New("attach takes -workload or -uplink")
		}
		return attach(artifact, file, workloads, uplinks, *bpffs)
	}
	return errors.New(usage)
}
