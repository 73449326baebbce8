// Package e2e tests hostport-ccm in the sandbox cluster, from outside: what is
// asserted of ports is asserted with packets from the internet host.
//
// The tests carry the build tag e2e and want a running sandbox (`make e2e`
// starts one). They can run again and again in the same one.
package e2e
