// Package edge enforces a simulated project's external addresses and firewall rules on the host
// between the "internet" and the VPC: 1:1 NAT and a stateful packet filter in nftables. Compute
// Engine has them around every VM.
//
// Traffic between VMs on internal addresses is always allowed, and egress rules are not enforced.
// IPv6 is not translated, and filtered only between the internet and the VPC: VMs reach each other
// without this host.
package edge
