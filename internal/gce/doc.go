// Package gce talks to the Compute Engine API: firewall rules and instances,
// nothing else. It retries what is transient, makes every change idempotent by
// a request id, waits for operations to end, and types its errors. What should
// be there is not its business: see packages firewall and provider.
//
// Methods are safe for concurrent use and share no lock: a slow operation
// delays only its own caller.
package gce
