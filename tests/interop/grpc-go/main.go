// gRPC for Go as client and server of gRPC's official interop cases, and a server of the negative HTTP/2 cases on Go's HTTP/2
// framer. Our side is ../cases.c.
//
//	grpc-go client HOST:PORT   runs the cases against a server; the first failure ends the program
//	grpc-go server             serves until its standard input ends; prints its address
//	grpc-go negative CASE      the same, misbehaving; fails in the end unless the client behaved as it should
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func fail(format string, values ...interface{}) {
	fmt.Fprintf(os.Stderr, "FAILED: "+format+"\n", values...)
	os.Exit(1)
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail("%v", err)
	}
	fmt.Println(listener.Addr())
	return listener
}

func serve() {
	server := grpc.NewServer()
	pb.RegisterTestServiceServer(server, interop.NewTestServer())
	listener := listen()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	if err := server.Serve(listener); err != nil {
		fail("%v", err)
	}
}

// A server that cannot decompress says so with UNIMPLEMENTED, and what it does accept.
func refusesCompression(ctx context.Context, client pb.TestServiceClient) {
	var header, trailer metadata.MD
	request := &pb.SimpleRequest{ResponseSize: 1, Payload: &pb.Payload{Body: make([]byte, 1000)}}
	_, err := client.UnaryCall(ctx, request, grpc.UseCompressor(gzip.Name), grpc.Header(&header), grpc.Trailer(&trailer))
	if status.Code(err) != codes.Unimplemented {
		fail("a compressed request: %v", err)
	}
	if len(header["grpc-accept-encoding"]) == 0 && len(trailer["grpc-accept-encoding"]) == 0 {
		fail("a compressed request was refused without grpc-accept-encoding: %v %v", header, trailer)
	}
}

func call(address string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := grpc.DialContext(ctx, address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithBlock())
	if err != nil {
		fail("%v", err)
	}
	client := pb.NewTestServiceClient(conn)
	for _, one := range []struct {
		name string
		run  func()
	}{
		{"empty_unary", func() { interop.DoEmptyUnaryCall(ctx, client) }},
		{"large_unary", func() { interop.DoLargeUnaryCall(ctx, client) }},
		{"client_streaming", func() { interop.DoClientStreaming(ctx, client) }},
		{"server_streaming", func() { interop.DoServerStreaming(ctx, client) }},
		{"ping_pong", func() { interop.DoPingPong(ctx, client) }},
		{"empty_stream", func() { interop.DoEmptyStream(ctx, client) }},
		{"timeout_on_sleeping_server", func() { interop.DoTimeoutOnSleepingServer(ctx, client) }},
		{"cancel_after_begin", func() { interop.DoCancelAfterBegin(ctx, client) }},
		{"cancel_after_first_response", func() { interop.DoCancelAfterFirstResponse(ctx, client) }},
		{"status_code_and_message", func() { interop.DoStatusCodeAndMessage(ctx, client) }},
		{"special_status_message", func() { interop.DoSpecialStatusMessage(ctx, client) }},
		{"unimplemented_method", func() { interop.DoUnimplementedMethod(ctx, conn) }},
		{"unimplemented_service", func() { interop.DoUnimplementedService(ctx, pb.NewUnimplementedServiceClient(conn)) }},
		{"custom_metadata", func() { interop.DoCustomMetadata(ctx, client) }},
		{"a compressed request", func() { refusesCompression(ctx, client) }},
	} {
		one.run()
		fmt.Println("ok  our server:", one.name)
	}
	conn.Close()
}

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "client":
		call(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "server":
		serve()
	case len(os.Args) == 3 && os.Args[1] == "negative":
		misbehave(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "Usage: grpc-go client HOST:PORT | grpc-go server | grpc-go negative CASE")
		os.Exit(2)
	}
}
