package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
)

const (
	hostEndpoint  = 1
	firstEndpoint = 2

	stateActive = 2

	eventsDenied = 1
	eventsTrace  = 3

	flagBound     = 1
	flagAddresses = 2

	kindWorkload = 1
	kindUplink   = 2
)

// Point is a device that programs are attached to. Endpoint "" is an uplink.
type Point struct {
	Ifindex  uint32
	Endpoint string
}

// load sizes the maps, has the kernel take the object, and fills the maps in the order of docs/artifact.md.
// Until the last write, that of `config`, the programs deny every packet.
func load(artifact *Artifact, file *Endpoints, host []netip.Addr, points []Point, events uint32) (*ebpf.Collection, error) {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(artifact.Object))
	if err != nil {
		return nil, err
	}
	addresses := len(host)
	for _, endpoint := range file.Endpoints {
		addresses += len(endpoint.Addresses)
	}
	for name, entries := range map[string]int{
		"ipcache4":   addresses + 1,
		"ipcache6":   addresses + 1,
		"endpoints":  len(file.Endpoints) + firstEndpoint,
		"identities": len(file.Endpoints) + firstEndpoint,
		"points":     len(points) + 1,
	} {
		spec.Maps[name].MaxEntries = uint32(entries)
	}
	collection, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	if err := fill(collection, artifact, file, host, points, events); err != nil {
		collection.Close()
		return nil, err
	}
	return collection, nil
}

func fill(c *ebpf.Collection, artifact *Artifact, file *Endpoints, host []netip.Addr, points []Point, events uint32) error {
	for _, step := range []func() error{
		func() error { return fillIdentities(c, &artifact.Manifest, file) },
		func() error { return fillEndpoints(c, file, points) },
		func() error { return fillAddresses(c, file, host) },
		func() error { return fillPoints(c, file, points) },
		func() error {
			// state, generation, events, flags, cgroup levels, 0, 0, 0
			return c.Maps["config"].Put(words(0), words(stateActive, 1, events, 0, 0, 0, 0, 0))
		},
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// fillIdentities gives each endpoint the slot of its own index; equal records could share one. Slot 0 stays zero.
func fillIdentities(c *ebpf.Collection, manifest *Manifest, file *Endpoints) error {
	builder := newIdentities(manifest)
	record, err := builder.host()
	if err != nil {
		return err
	}
	if err := c.Maps["identities"].Put(words(hostEndpoint), record); err != nil {
		return err
	}
	for n, endpoint := range file.Endpoints {
		record, err := builder.endpoint(endpoint.Labels)
		if err != nil {
			return fmt.Errorf("endpoint %s: %w", endpoint.Name, err)
		}
		if err := c.Maps["identities"].Put(words(firstEndpoint+uint32(n)), record); err != nil {
			return err
		}
	}
	return nil
}

func fillEndpoints(c *ebpf.Collection, file *Endpoints, points []Point) error {
	bound := map[string]bool{}
	for _, point := range points {
		bound[point.Endpoint] = true
	}
	if err := c.Maps["endpoints"].Put(words(hostEndpoint), words(hostEndpoint, 0)); err != nil {
		return err
	}
	for n, endpoint := range file.Endpoints {
		index, flags := firstEndpoint+uint32(n), uint32(0)
		if bound[endpoint.Name] {
			flags |= flagBound
		}
		if len(endpoint.Addresses) > 0 {
			flags |= flagAddresses
		}
		if err := c.Maps["endpoints"].Put(words(index), words(index, flags)); err != nil {
			return err
		}
	}
	return nil
}

func fillAddresses(c *ebpf.Collection, file *Endpoints, host []netip.Addr) error {
	for _, address := range host {
		if err := putAddress(c, address, hostEndpoint); err != nil {
			return err
		}
	}
	for n, endpoint := range file.Endpoints { // after those of this machine: a registered address is the endpoint's
		for _, address := range endpoint.Addresses {
			if err := putAddress(c, address, firstEndpoint+uint32(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func putAddress(c *ebpf.Collection, address netip.Addr, index uint32) error {
	name := "ipcache6"
	if address.Is4() {
		name = "ipcache4"
	}
	return c.Maps[name].Put(address.AsSlice(), words(index))
}

func fillPoints(c *ebpf.Collection, file *Endpoints, points []Point) error {
	for _, point := range points {
		kind, index := uint32(kindUplink), uint32(0)
		if point.Endpoint != "" {
			found, err := file.index(point.Endpoint)
			if err != nil {
				return err
			}
			kind, index = kindWorkload, found
		}
		if err := c.Maps["points"].Put(words(point.Ifindex), words(kind, index)); err != nil {
			return err
		}
	}
	return nil
}

// words packs u32, little-endian.
func words(values ...uint32) []byte {
	packed := make([]byte, 0, 4*len(values))
	for _, value := range values {
		packed = binary.LittleEndian.AppendUint32(packed, value)
	}
	return packed
}
