// gRPC C++ as a server: the callback API, or with --mode async one completion queue turned by one thread. With --tls it demands the
// certificate of its clients and verifies it.
#include "../bench.h"
#include "echo.grpc.pb.h"

#include <grpcpp/grpcpp.h>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

class CallbackEcho final : public bench::Echo::CallbackService {
	grpc::ServerUnaryReactor *Call(grpc::CallbackServerContext *context, const bench::Message *request, bench::Message *answer) override
	{
		answer->set_body(request->body());
		auto *reactor = context->DefaultReactor();
		reactor->Finish(grpc::Status::OK);
		return reactor;
	}
};

// One call from acceptance to the end: asks for the next one before it answers, then deletes itself.
class AsyncCall {
public:
	AsyncCall(bench::Echo::AsyncService *service, grpc::ServerCompletionQueue *queue) : service_(service), queue_(queue), responder_(&context_)
	{
		service_->RequestCall(&context_, &request_, &responder_, queue_, queue_, this);
	}

	void Proceed(bool is_ok)
	{
		if (!is_ok || is_answered_) {
			delete this;
			return;
		}
		new AsyncCall(service_, queue_);
		is_answered_ = true;
		answer_.set_body(request_.body());
		responder_.Finish(answer_, grpc::Status::OK, this);
	}

private:
	bench::Echo::AsyncService *service_;
	grpc::ServerCompletionQueue *queue_;
	grpc::ServerContext context_;
	bench::Message request_, answer_;
	grpc::ServerAsyncResponseWriter<bench::Message> responder_;
	bool is_answered_ = false;
};

static void ServeAsync(grpc::ServerBuilder *builder)
{
	bench::Echo::AsyncService service;
	builder->RegisterService(&service);
	std::unique_ptr<grpc::ServerCompletionQueue> queue = builder->AddCompletionQueue();
	std::unique_ptr<grpc::Server> server = builder->BuildAndStart();
	if (!server)
		exit(1);
	for (int i = 0; i < 256; i++)
		new AsyncCall(&service, queue.get());
	void *tag;
	bool is_ok;
	while (queue->Next(&tag, &is_ok))
		static_cast<AsyncCall *>(tag)->Proceed(is_ok);
}

static std::string Read(const std::string &path)
{
	std::stringstream text;
	text << std::ifstream(path).rdbuf();
	return text.str();
}

static std::shared_ptr<grpc::ServerCredentials> Credentials(const bench_args &args)
{
	if (!args.tls)
		return grpc::InsecureServerCredentials();
	const std::string folder = args.tls;
	grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
	options.pem_root_certs = Read(folder + "/ca.crt");
	options.pem_key_cert_pairs.push_back({ Read(folder + "/tls.key"), Read(folder + "/tls.crt") });
	return grpc::SslServerCredentials(options);
}

int main(int argc, char **argv)
{
	bench_args args = bench_parse(argc, argv);
	grpc::ServerBuilder builder;

	builder.AddListeningPort(std::string(args.host) + ":" + std::to_string(args.port), Credentials(args));
	if (strcmp(args.mode, "async") == 0) {
		ServeAsync(&builder);
		return 0;
	}
	CallbackEcho service;
	builder.RegisterService(&service);
	std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
	if (!server)
		return 1;
	server->Wait();
}
