package main

import (
	"fmt"
	"net/netip"
	"os"

	"gopkg.in/yaml.v3"
)

// Endpoint is a workload of the endpoints file.
type Endpoint struct {
	Name      string
	Addresses []netip.Addr
	Labels    map[string]string
	Cgroup    string
	Interface string
}

// Endpoints is the endpoints file: {version: 1, host: [addresses], endpoints: […]} in YAML or JSON.
type Endpoints struct {
	Version   int
	Host      []netip.Addr
	Endpoints []Endpoint
}

// readEndpoints also refuses an address that two have.
func readEndpoints(path string) (*Endpoints, error) {
	text, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer text.Close()
	decoder := yaml.NewDecoder(text)
	decoder.KnownFields(true)
	var file Endpoints
	if err := decoder.Decode(&file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if file.Version != 1 {
		return nil, fmt.Errorf("%s: version is %d, not 1", path, file.Version)
	}
	holder := map[netip.Addr]string{}
	for _, endpoint := range file.Endpoints {
		for _, address := range endpoint.Addresses {
			if other, held := holder[address]; held {
				return nil, fmt.Errorf("%s: %s and %s have the address %s", path, other, endpoint.Name, address)
			}
			holder[address] = endpoint.Name
		}
	}
	return &file, nil
}

// index of an endpoint in the maps: 0 is nobody, 1 this machine, endpoints begin at 2.
func (e *Endpoints) index(name string) (uint32, error) {
	for n, endpoint := range e.Endpoints {
		if endpoint.Name == name {
			return firstEndpoint + uint32(n), nil
		}
	}
	return 0, fmt.Errorf("no endpoint is named %q", name)
}
