module policyc/examples/go-loader

go 1.25.0

require (
	github.com/cilium/ebpf v0.22.0
	gopkg.in/yaml.v3 v3.0.1
)

require golang.org/x/sys v0.43.0 // indirect
