// Package e2e tests hostport-ccm in the sandbox cluster from outside: packets from the internet
// host show which ports are open.
//
// The tests have the build tag e2e and need a running sandbox (`make e2e` starts one). They can run
// repeatedly in the same one.
package e2e
