// Package gcesim simulates Google Compute Engine for tests: an HTTP server with the part of the
// Compute API (compute/v1) and of the metadata server that hostport-ccm uses through the real
// client. Changes of firewall rules are asynchronous operations; faults can be injected.
//
// Sim is an http.Handler, for httptest or, with Sim.Client, for use without a network. Command
// gcesim runs it as a process. Package edge enforces its firewall on real packets. There is no
// instance life cycle, no routes and no IAM: tests change instances with Sim's methods or with the
// admin API under /_sim/.
package gcesim
