import { sha256 as digest } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

/** In lower-case hex. `crypto.subtle` is there over HTTPS and on this machine alone, and a studio may be elsewhere. */
export function sha256(bytes: Uint8Array): string {
  return bytesToHex(digest(bytes));
}
