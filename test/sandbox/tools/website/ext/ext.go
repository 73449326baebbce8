// Package ext stands in for a module of Traefik's that is not published. The open-source Traefik has no
// fields there.
package ext

// HTTP is embedded in Traefik's configuration of HTTP.
type HTTP struct{}

// Router is embedded in Traefik's routers.
type Router struct{}
