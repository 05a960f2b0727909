defmodule SangoWeb.StudioPage do
  @moduledoc """
  The studio page, compiled in: the very files that `make web` builds and that the Rust gateway serves, so that a
  release needs nothing beside it.
  """

  @folder Path.expand("../../../../web/dist", __DIR__)

  # What is served when `web/` has not been built.
  placeholder = """
  <!doctype html>
  <html lang="en"><meta charset="utf-8"><title>Sango</title>
  <body style="font: 1.1rem/1.5 system-ui; max-width: 36rem; margin: 15vh auto; padding: 0 1rem">
  <h1>Sango is running</h1>
  <p>The studio page is not in this build. Build it, and compile again:</p>
  <pre>make web &amp;&amp; cd elixir_app/web &amp;&amp; mix compile</pre>
  <p>The HTTP interface works without it: see <a href="/openapi.json">/openapi.json</a>, and <a href="/ops">/ops</a>.</p>
  </body></html>
  """

  list = fn ->
    @folder |> Path.join("**") |> Path.wildcard() |> Enum.filter(&File.regular?/1) |> Enum.sort()
  end

  found = list.()
  for path <- found, do: @external_resource(path)
  @found_hash :erlang.md5(found)

  files = for path <- found, into: %{}, do: {Path.relative_to(path, @folder), File.read!(path)}
  files = if is_map_key(files, "index.html"), do: files, else: %{"index.html" => placeholder}

  @types %{
    ".html" => "text/html; charset=utf-8",
    ".js" => "text/javascript; charset=utf-8",
    ".mjs" => "text/javascript; charset=utf-8",
    ".css" => "text/css; charset=utf-8",
    ".json" => "application/json",
    ".map" => "application/json",
    ".webmanifest" => "application/json",
    ".svg" => "image/svg+xml",
    ".png" => "image/png",
    ".jpg" => "image/jpeg",
    ".jpeg" => "image/jpeg",
    ".webp" => "image/webp",
    ".gif" => "image/gif",
    ".ico" => "image/x-icon",
    ".mp4" => "video/mp4",
    ".woff2" => "font/woff2",
    ".txt" => "text/plain; charset=utf-8"
  }

  @typedoc "A file of the page."
  @type file :: %{bytes: binary, etag: String.t(), content_type: String.t(), cache_control: String.t()}

  # The build names what it compiles by its hash, so those files never change; the page itself does.
  @files Map.new(files, fn {path, bytes} ->
           hash = Base.encode16(:crypto.hash(:sha256, bytes), case: :lower)

           {path,
            %{
              bytes: bytes,
              etag: ~s("#{hash}"),
              content_type: Map.get(@types, Path.extname(path), "application/octet-stream"),
              cache_control:
                if(String.starts_with?(path, "assets/"),
                  do: "public, max-age=31536000, immutable",
                  else: "no-cache"
                )
            }}
         end)

  @doc "The file at a path, as `index.html`."
  @spec fetch(String.t()) :: {:ok, file} | :error
  def fetch(path), do: Map.fetch(@files, path)

  @doc "The paths of all files."
  @spec paths() :: [String.t()]
  def paths, do: Map.keys(@files)

  # The compiler sees by itself when a file changes, but not when one is new or gone.
  @doc false
  def __mix_recompile__? do
    found = @folder |> Path.join("**") |> Path.wildcard() |> Enum.filter(&File.regular?/1) |> Enum.sort()
    :erlang.md5(found) != @found_hash
  end
end
