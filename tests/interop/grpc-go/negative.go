package main

// A server frame by frame, since a well-behaved one cannot be made to misbehave. It answers every request with one
// SimpleResponse of the size that large_unary wants, but for what its case says.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

const (
	responseSize = 314159
	frameSize    = 16000
)

// What all connections of a run have seen; checked in the end.
var seen struct {
	sync.Mutex
	connections, streams, pings, acks, atOnceMax int
	fault                                        string
}

// note changes what was seen.
func note(change func()) {
	seen.Lock()
	change()
	seen.Unlock()
}

type connection struct {
	name                string // of the case
	framer              *http2.Framer
	window, streamFirst int64 // what the client lets us send: on the connection, and on each new stream
	windows             map[uint32]int64
	answers             map[uint32][]byte // what is still to be sent
	open                map[uint32]bool
	goneAway            bool
}

func answer() []byte {
	body, err := proto.Marshal(&pb.SimpleResponse{Payload: &pb.Payload{Body: make([]byte, responseSize)}})
	if err != nil {
		fail("%v", err)
	}
	message := make([]byte, 5, 5+len(body))
	binary.BigEndian.PutUint32(message[1:], uint32(len(body)))
	return append(message, body...)
}

func fields(list ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0) // each block stands alone
	for i := 0; i < len(list); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: list[i], Value: list[i+1]})
	}
	return block.Bytes()
}

// ping interrupts whatever is going on.
func (c *connection) ping() {
	if c.name != "ping" {
		return
	}
	note(func() { seen.pings++ })
	c.framer.WritePing(false, [8]byte{'a', 'r', 'e', ' ', 'y', 'o', 'u', '?'})
}

func (c *connection) respond(id uint32) {
	c.ping()
	c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields(":status", "200", "content-type", "application/grpc"), EndHeaders: true})
	c.ping()
	message := answer()
	switch c.name {
	case "rst_after_header":
		c.finish(id, true)
		return
	case "rst_during_data":
		message = message[:len(message)/2]
	}
	c.answers[id] = message
	c.pump()
}

// pump sends as much as the client's windows allow.
func (c *connection) pump() {
	for id, left := range c.answers {
		for len(left) > 0 {
			size := int64(len(left))
			for _, limit := range []int64{frameSize, c.window, c.windows[id]} {
				if size > limit {
					size = limit
				}
			}
			if size <= 0 {
				break
			}
			var padding []byte
			if c.name == "data_frame_padding" && size > 256 {
				size -= 256 // padding and its length use up the window, too
				padding = make([]byte, 255)
			}
			c.framer.WriteDataPadded(id, false, left[:size], padding)
			if padding != nil {
				c.window -= 256
				c.windows[id] -= 256
			}
			c.window -= size
			c.windows[id] -= size
			left = left[size:]
			c.answers[id] = left
			c.ping()
		}
		if len(left) == 0 {
			delete(c.answers, id)
			c.finish(id, c.name == "rst_during_data" || c.name == "rst_after_data")
		}
	}
}

func (c *connection) finish(id uint32, isBroken bool) {
	if isBroken {
		c.framer.WriteRSTStream(id, http2.ErrCodeNo)
	} else {
		c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields("grpc-status", "0"), EndHeaders: true, EndStream: true})
	}
	delete(c.open, id) // no ping from here on: the client has what it wanted, and may leave
	if c.name == "goaway" {
		c.framer.WriteGoAway(id, http2.ErrCodeNo, nil)
		c.goneAway = true
	}
}

func (c *connection) opened(id uint32) {
	c.open[id] = true
	c.windows[id] = c.streamFirst
	note(func() {
		seen.streams++
		if c.goneAway {
			seen.fault = "a new stream after GOAWAY"
		}
		if len(c.open) > seen.atOnceMax {
			seen.atOnceMax = len(c.open)
		}
	})
}

func (c *connection) take(frame http2.Frame) {
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		if frame.IsAck() {
			return
		}
		if value, ok := frame.Value(http2.SettingInitialWindowSize); ok {
			c.streamFirst = int64(value)
		}
		c.framer.WriteSettingsAck()
		c.ping()
	case *http2.PingFrame:
		if frame.IsAck() {
			note(func() { seen.acks++ })
		} else {
			c.framer.WritePing(true, frame.Data)
		}
	case *http2.WindowUpdateFrame:
		if frame.StreamID == 0 {
			c.window += int64(frame.Increment)
		} else {
			c.windows[frame.StreamID] += int64(frame.Increment)
		}
		c.pump()
	case *http2.HeadersFrame:
		c.opened(frame.StreamID)
		c.ping()
		if frame.StreamEnded() {
			c.respond(frame.StreamID)
		}
	case *http2.DataFrame:
		c.ping()
		if frame.Length > 0 {
			c.framer.WriteWindowUpdate(0, frame.Length)
		}
		if frame.StreamEnded() {
			c.respond(frame.StreamID)
		} else if frame.Length > 0 {
			c.framer.WriteWindowUpdate(frame.StreamID, frame.Length)
		}
	}
}

func (c *connection) run(conn net.Conn) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	note(func() { seen.connections++ })
	var settings []http2.Setting
	if c.name == "max_streams" {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	}
	c.framer.WriteSettings(settings...)
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		c.take(frame)
	}
}

func verdict(name string) string {
	seen.Lock()
	defer seen.Unlock()
	switch {
	case seen.fault != "":
		return seen.fault
	case seen.streams == 0:
		return "no call came"
	case name == "goaway" && seen.connections < 2:
		return "no new connection after GOAWAY"
	case name == "ping" && (seen.pings == 0 || seen.acks != seen.pings):
		return fmt.Sprintf("%d of %d pings were answered", seen.acks, seen.pings)
	case name == "max_streams" && (seen.atOnceMax != 1 || seen.streams != 11):
		return fmt.Sprintf("%d streams, up to %d at once, though one is the limit", seen.streams, seen.atOnceMax)
	}
	return ""
}

func misbehave(name string) {
	var running sync.WaitGroup
	listener := listen()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				fail("%v", err)
			}
			c := &connection{name: name, framer: http2.NewFramer(conn, conn), window: 65535, streamFirst: 65535,
				windows: map[uint32]int64{}, answers: map[uint32][]byte{}, open: map[uint32]bool{}}
			running.Add(1)
			go func() {
				c.run(conn)
				running.Done()
			}()
		}
	}()
	io.Copy(io.Discard, os.Stdin)
	running.Wait() // the client has ended; its last frames may still be on their way
	if what := verdict(name); what != "" {
		fail("%s: %s", name, what)
	}
}
