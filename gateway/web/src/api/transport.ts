import { createGrpcWebTransport } from "@connectrpc/connect-web";

/** Every call goes to where the page came from: the edge serves both. */
export const transport = createGrpcWebTransport({ baseUrl: location.origin });
