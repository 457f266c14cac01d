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

function envoy_on_request(request)
  local headers = request:headers()
  local origin = headers:get("origin")
  if origin and is_foreign(origin, headers:get(":authority")) then
    request:respond({[":status"] = "403"}, "pages of this origin may not call: see ATELIER_GATEWAY_CORS_ORIGINS")
    return
  end
  local whole = headers:get(":path")
  local path, query = whole:match("^(/api/[^?]*)%??(.*)$")
  if path then
    if query ~= "" then
      headers:replace(":path", path .. "?" .. with_full_names(path:gsub("/$", ""), query))
    end
  elseif WEB and is_page(headers:get(":method"), whole) then
    headers:replace("x-envoy-original-path", whole) -- for the access log
    headers:replace(":path", "/index.html")
  end
end

-- A picture's bytes never change under its id, so a page that shows it again need not fetch it again.
function envoy_on_response(response)
  local headers = response:headers()
  if headers:get(":status") == "200" and (headers:get("content-type") or ""):match("^image/") and not headers:get("cache-control") then
    headers:add("cache-control", "private, max-age=86400")
  end
end
