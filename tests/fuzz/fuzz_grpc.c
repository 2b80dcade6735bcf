/* The texts of gRPC: timeouts, statuses, percent-encoding, binary metadata. */
#include "fuzz.h"

#include "wire/grpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text = fuzz_text(data, len), encoded[4096];
	uint8_t *bytes = malloc(len + 4);
	struct mesh__text out;
	uint64_t timeout_ns;
	uint32_t message_len;
	size_t got;

	if (mesh__grpc_parse_timeout(text, len, &timeout_ns)) {
		char printed[MESH__GRPC_TIMEOUT_TEXT_MAX];

		if (timeout_ns > UINT64_MAX / 2 || mesh__grpc_print_timeout(timeout_ns, printed) >= sizeof(printed))
			abort();
	}
	mesh__grpc_parse_status(text, len);
	mesh__grpc_is_content_type(text, len);
	mesh__text_init(&out, encoded, sizeof(encoded));
	mesh__grpc_percent_encode(&out, text);
	if (mesh__grpc_base64_decode(text, len, bytes, &got) == 0 && got > len)
		abort();
	if (len >= MESH__GRPC_PREFIX_BYTES)
		mesh__grpc_read_prefix(data, &message_len);
	if (mesh__grpc_percent_decode(text, len) > len)
		abort();
	/* What was encoded comes back. */
	if (!out.is_cut && strlen((const char *)encoded) != out.len)
		abort();
	free(bytes);
	free(text);
	return 0;
}
