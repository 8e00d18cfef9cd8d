package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// attach loads the object and puts its tc programs on the devices with the `tc` command. The filters hold the
// programs, which hold the maps: enforcement stays when this process has gone, until `tc qdisc del dev DEV clsact`.
func attach(artifact *Artifact, file *Endpoints, workloads, uplinks []string, bpffs string) error {
	devices, points, err := resolve(workloads, uplinks)
	if err != nil {
		return err
	}
	host, err := hostAddresses(file)
	if err != nil {
		return err
	}
	collection, err := load(artifact, file, host, points, eventsDenied)
	if err != nil {
		return err
	}
	defer collection.Close()
	folder, err := os.MkdirTemp(bpffs, "go-loader-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder) // the pins are only how `tc` is told which program
	for _, direction := range []string{"ingress", "egress"} {
		pin := filepath.Join(folder, direction)
		if err := collection.Programs["policyc_tc_"+direction].Pin(pin); err != nil {
			return err
		}
		for _, device := range devices {
			if err := attachOne(device, direction, pin); err != nil {
				return err
			}
		}
	}
	return nil
}

func attachOne(device, direction, pin string) error {
	if err := tc("qdisc", "add", "dev", device, "clsact"); err != nil && !strings.Contains(err.Error(), "Exclusivity flag on") {
		return err
	}
	return tc("filter", "replace", "dev", device, direction, "prio", "1", "handle", "1", "bpf", "direct-action", "object-pinned", pin)
}

func tc(arguments ...string) error {
	if said, err := exec.Command("tc", arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("tc %s: %w: %s", strings.Join(arguments, " "), err, strings.TrimSpace(string(said)))
	}
	return nil
}

// resolve reads DEVICE=ENDPOINT (the host's end of a workload's link) and DEVICE (an uplink).
func resolve(workloads, uplinks []string) (devices []string, points []Point, err error) {
	for _, text := range append(workloads, uplinks...) {
		device, endpoint, _ := strings.Cut(text, "=")
		found, err := net.InterfaceByName(device)
		if err != nil {
			return nil, nil, fmt.Errorf("device %q: %w", device, err)
		}
		devices = append(devices, device)
		points = append(points, Point{uint32(found.Index), endpoint})
	}
	return devices, points, nil
}

// hostAddresses are those of the file and of this network namespace's devices.
func hostAddresses(file *Endpoints) ([]netip.Addr, error) {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	host := file.Host
	for _, network := range found {
		prefix, err := netip.ParsePrefix(network.String())
		if err != nil {
			return nil, err
		}
		host = append(host, prefix.Addr())
	}
	return host, nil
}
