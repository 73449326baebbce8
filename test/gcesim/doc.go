// Package gcesim plays Google Compute Engine for tests: an HTTP server that
// speaks as much of the Compute API (compute/v1) and of the metadata server as
// hostport-ccm uses, so that the real client cannot tell. Changes of firewall
// rules go through operations that take their time; faults can be switched on.
//
// Sim is an http.Handler, for httptest or without any network by Sim.Client.
// Command gcesim runs it as a process. Package edge makes its firewall real
// packets' firewall. It knows no instance life cycle, no routes and no IAM:
// tests change instances through Sim's methods or the admin API under /_sim/.
package gcesim
