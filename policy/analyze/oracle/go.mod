module github.com/hostpolicy/hostpolicy/policy/analyze/oracle

go 1.26.0

require (
	github.com/dalzilio/rudd v1.1.0
	github.com/hostpolicy/hostpolicy v0.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	go.yaml.in/yaml/v3 v3.0.6 // indirect
	go4.org/netipx v0.0.0-20260823151212-3075585bcbeb // indirect
	golang.org/x/tools v0.52.0 // indirect
)

replace github.com/hostpolicy/hostpolicy => ../../..
