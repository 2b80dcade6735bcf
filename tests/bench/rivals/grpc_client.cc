// gRPC C++ as a client: one channel, --streams calls outstanding on one completion queue; with --mode sync a blocking
// ping-pong; with --mode callback the callback API.
#include "../bench.h"
#include "echo.grpc.pb.h"

#include <atomic>
#include <chrono>
#include <future>
#include <grpcpp/grpcpp.h>
#include <memory>
#include <mutex>
#include <string>
#include <unistd.h>

static std::chrono::system_clock::time_point Deadline()
{
	return std::chrono::system_clock::now() + std::chrono::seconds(10);
}

struct Call {
	std::unique_ptr<grpc::ClientContext> context;
	bench::Message answer;
	grpc::Status status;
	std::unique_ptr<grpc::ClientAsyncResponseReader<bench::Message>> reader;
	uint64_t started_ns;
};

static void RunAsync(bench::Echo::Stub *stub, const bench_args &args, const bench::Message &request, bench_window *window)
{
	grpc::CompletionQueue queue;
	auto start = [&](Call *call) {
		call->started_ns = bench_now_ns();
		call->context = std::make_unique<grpc::ClientContext>();
		call->context->set_deadline(Deadline());
		call->reader = stub->AsyncCall(call->context.get(), request, &queue);
		call->reader->Finish(&call->answer, &call->status, call);
	};
	for (int i = 0; i < args.streams; i++)
		start(new Call);
	void *tag;
	bool is_ok;
	while (queue.Next(&tag, &is_ok)) {
		auto *call = static_cast<Call *>(tag);
		if (!bench_window_add(window, call->started_ns, bench_now_ns(), is_ok && call->status.ok()))
			return;
		start(call);
	}
}

static void RunSync(bench::Echo::Stub *stub, const bench::Message &request, bench_window *window)
{
	for (;;) {
		grpc::ClientContext context;
		bench::Message answer;
		uint64_t started_ns = bench_now_ns();
		context.set_deadline(Deadline());
		grpc::Status status = stub->Call(&context, request, &answer);
		if (!bench_window_add(window, started_ns, bench_now_ns(), status.ok()))
			return;
	}
}

struct CallbackLoad {
	bench::Echo::Stub *stub;
	const bench::Message *request;
	bench_window *window;
	std::mutex mutex;
	std::atomic<bool> is_over{ false };
	std::promise<void> over;

	void Start(Call *call)
	{
		call->started_ns = bench_now_ns();
		call->context = std::make_unique<grpc::ClientContext>();
		call->context->set_deadline(Deadline());
		stub->async()->Call(call->context.get(), request, &call->answer, [this, call](grpc::Status status) { Done(call, status.ok()); });
	}

	void Done(Call *call, bool is_ok)
	{
		bool goes_on;
		{
			std::lock_guard<std::mutex> lock(mutex);
			if (is_over)
				return;
			goes_on = bench_window_add(window, call->started_ns, bench_now_ns(), is_ok);
			is_over = !goes_on;
		}
		if (goes_on)
			Start(call);
		else
			over.set_value();
	}
};

static void RunCallback(bench::Echo::Stub *stub, const bench_args &args, const bench::Message &request, bench_window *window)
{
	auto *load = new CallbackLoad{ stub, &request, window, {}, {}, {} };
	auto over = load->over.get_future();
	for (int i = 0; i < args.streams; i++)
		load->Start(new Call);
	over.wait();
}

int main(int argc, char **argv)
{
	bench_args args = bench_parse(argc, argv);
	auto channel = grpc::CreateChannel(std::string(args.host) + ":" + std::to_string(args.port), grpc::InsecureChannelCredentials());
	auto stub = bench::Echo::NewStub(channel);
	bench::Message request;

	request.set_body(std::string((size_t)args.payload, 'm'));
	if (!channel->WaitForConnected(Deadline()))
		return 1;
	bench_window *window = bench_window_new(&args);
	if (strcmp(args.mode, "sync") == 0)
		RunSync(stub.get(), request, window);
	else if (strcmp(args.mode, "callback") == 0)
		RunCallback(stub.get(), args, request, window);
	else
		RunAsync(stub.get(), args, request, window);
	bench_window_print(window);
	_exit(0); // calls are still outstanding, and their end is not what is measured
}
