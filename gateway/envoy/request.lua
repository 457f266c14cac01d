-- What Envoy's own filters cannot say. ORIGINS, ENUMS and WEB come before this text, made by filters.py.

-- A page of another origin may not call: CORS alone would keep it from the answer and not from the deed, since a plain
-- POST needs no preflight. Clients that are no browsers send no Origin.
local function is_foreign(origin, host)
  return not ORIGINS[origin] and origin:match("^https?://(.+)$") ~= host
end

-- `category=image` as the contract has it, `category=MODEL_CATEGORY_IMAGE`.
local function with_full_names(path, query)
  for pattern, parameters in pairs(ENUMS) do
    if path:match(pattern) then
      return (query:gsub("([^&=]+)=([^&]*)", function(key, value)
        local full = parameters[key] and parameters[key][value:lower()]
        return full and key .. "=" .. full
      end))
    end
  end
  return query
end

-- Pages live in the browser: whichever is asked for by its address, the answer is the app.
local function is_page(method, path)
  return (method == "GET" or method == "HEAD") and not path:match("^[^?]*"):find(".", 1, true)
end

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local HELD = 1000000 -- bytes of a body that are looked at; a listener holds 1 MiB by itself

-- The bytes of eight letters of base64; fewer where they are not.
local function decoded(letters)
  local bytes, bits, count = {}, 0, 0
  for letter in letters:gmatch(".") do
    local value = ALPHABET:find(letter, 1, true)
    if not value then break end
    bits, count = bits * 64 + value - 1, count + 6
    if count >= 8 then
      count = count - 8
      table.insert(bytes, string.char(math.floor(bits / 2 ^ count)))
      bits = bits % 2 ^ count
    end
  end
  return table.concat(bytes)
end

-- What is wrong with a gRPC-Web request that ends within its message: by how much, which a service could not say, and
-- before it takes what is no gRPC-Web at all for an empty message. One flag, four bytes of length, and so many bytes.
local function torn(request, headers, kind)
  local size = tonumber(headers:get("content-length") or "")
  if not size or size > HELD then return nil end
  local body = size > 0 and request:body() or nil
  local came = body and body:length() or 0
  local is_text = kind:find("-text", 1, true)
  local first = came > 0 and body:getBytes(0, math.min(came, is_text and 8 or 5)) or ""
  if is_text then
    first, came = decoded(first), math.floor(came * 3 / 4)
  end
  if #first < 5 then return "the request ends before its message begins" end
  local a, b, c, d = first:byte(2, 5)
  local length = ((a * 256 + b) * 256 + c) * 256 + d
  if came - 5 < length then
    return ("the request ends within its message: %.0f of %.0f bytes came"):format(came - 5, length)
  end
end

local NOTES = "atelier" -- what a response is to know of its request

function envoy_on_request(request)
  local headers = request:headers()
  local origin = headers:get("origin")
  if origin and is_foreign(origin, headers:get(":authority")) then
    request:respond({[":status"] = "403"}, "pages of this origin may not call: see ATELIER_GATEWAY_CORS_ORIGINS")
    return
  end
  local kind = headers:get("content-type") or ""
  if kind:find("^application/grpc%-web") then
    local problem = torn(request, headers, kind)
    if problem then
      request:respond({[":status"] = "200", ["content-type"] = kind, ["grpc-status"] = "3", ["grpc-message"] = problem}, "")
    end
    return
  end
  local whole = headers:get(":path")
  local path, query = whole:match("^(/api/[^?]*)%??(.*)$")
  if WEB and (path == "/api/" or path == "/api/docs") and is_page(headers:get(":method"), whole) then
    headers:replace("x-envoy-original-path", whole)
    headers:replace(":path", "/api-docs.html") -- shows /api/openapi.json
  elseif path then
    if query ~= "" then
      query = with_full_names(path:gsub("/$", ""), query)
      headers:replace(":path", path .. "?" .. query)
      if query:find("IMAGE_VARIANT_MASK", 1, true) then
        request:streamInfo():dynamicMetadata():set(NOTES, "changes", true)
      end
    end
  elseif WEB and is_page(headers:get(":method"), whole) then
    headers:replace("x-envoy-original-path", whole) -- for the access log
    headers:replace(":path", "/index.html")
  end
end

-- A picture's bytes never change under its id, so a page that shows it again need not fetch it again. Its mask may.
function envoy_on_response(response)
  local headers = response:headers()
  if headers:get(":status") == "200" and (headers:get("content-type") or ""):match("^image/") and not headers:get("cache-control") then
    local notes = response:streamInfo():dynamicMetadata():get(NOTES) or {}
    headers:add("cache-control", notes["changes"] and "no-cache" or "private, max-age=86400")
  end
end
