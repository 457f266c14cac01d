/** A `fetch` for one upload that tells how much has been sent, which `fetch` itself cannot; for connect's transport. */
export function fetchWithProgress(onProgress: (share: number) => void): typeof fetch {
  return (input, init) =>
    new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open(init?.method ?? "POST", input instanceof Request ? input.url : String(input));
      request.responseType = "arraybuffer";
      new Headers(init?.headers).forEach((value, name) => request.setRequestHeader(name, value));
      request.upload.addEventListener("progress", (event) => {
        if (event.lengthComputable) onProgress(event.loaded / event.total);
      });
      request.addEventListener("load", () => {
        const headers = new Headers();
        for (const line of request.getAllResponseHeaders().trim().split(/[\r\n]+/)) {
          const colon = line.indexOf(":");
          if (colon > 0) headers.append(line.slice(0, colon), line.slice(colon + 1).trim());
        }
        resolve(new Response(request.response as ArrayBuffer, { status: request.status, headers }));
      });
      // The same that `fetch` throws, so that the caller sees one kind of lost connection.
      request.addEventListener("error", () => reject(new TypeError("Failed to fetch")));
      request.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
      init?.signal?.addEventListener("abort", () => request.abort());
      request.send(init?.body as XMLHttpRequestBodyInit);
    });
}
