package rules

import "time"

// TCPTimeouts are how long connection tracking keeps a TCP connection without packets, by its
// state. Linux repeats an unanswered SYN or SYN-ACK after 1, 3, 7 and 15 seconds, and each of them
// counts as a packet.
type TCPTimeouts struct {
	// SynSent is for connections that the target has not answered.
	SynSent time.Duration
	// SynRecv is for half-open connections: those that the client has not confirmed.
	SynRecv time.Duration
	// Established is for open connections.
	Established time.Duration
	// FinWait is for connections that one side wants to end.
	FinWait time.Duration
	// TimeWait is for connections that have ended.
	TimeWait time.Duration
}

// Timeouts are the timeouts in a proxy's pod. All entries to one port share 64,512 source ports
// (config.MaxConnections). With the kernel's defaults of 1 to 2 minutes for SynSent and SynRecv,
// 1,100 SYN packets per second from spoofed addresses use them up, and with its 5 days for
// Established, 13,000 clients a day that vanish without a FIN.
//
//   - SynSent, SynRecv: more than the 8 seconds between the third and the fourth repetition. If an
//     entry goes before a late packet, the packet begins a new one, so at worst the client connects
//     again. 6,400 half-open connections per second fit.
//   - Established: more than the 2 hours 4 minutes that RFC 5382, REQ-5, demands of a NAT, which
//     exceed the 2 hours after which Linux sends its first keepalive.
//   - FinWait, TimeWait: as long as Linux itself keeps the socket (TCP_FIN_TIMEOUT,
//     TCP_TIMEWAIT_LEN in include/net/tcp.h).
//
// The defaults for UDP stay: 30 seconds until a flow has lasted for 2. With less, clients that send
// every 20 seconds would begin a new flow each time, and change the backend.
var Timeouts = TCPTimeouts{
	SynSent:     10 * time.Second,
	SynRecv:     10 * time.Second,
	Established: 2*time.Hour + 5*time.Minute,
	FinWait:     time.Minute,
	TimeWait:    time.Minute,
}
