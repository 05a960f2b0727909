defmodule SangoWeb.Environment do
  @moduledoc """
  The environment variables that configure the server, in development and in a release.

  | variable | default | meaning |
  |---|---|---|
  | `PHX_SERVER` | unset | `true`: the release serves (`bin/server` sets it; `mix phx.server` serves anyway) |
  | `PORT` | `4000` | where to listen |
  | `SANGO_LISTEN` | `127.0.0.1` | the IP address to listen on; `::` or `0.0.0.0` opens the server to the network |
  | `PHX_HOST` | `localhost` | the name that people use for the server, when a proxy stands before it |
  | `SECRET_KEY_BASE` | required in a release | 64 bytes or more that sign the sessions of the operations page |
  | `SANGO_ALLOWED_ORIGINS` | none | origins, with commas between them, whose pages may use the server besides its own |
  | `SANGO_MODELS` | `models` (development: the project's) | the models folder |
  | `SANGO_DATA` | `.sango` | where jobs and results are kept |
  | `SANGO_THREADS` | `0` | compute threads; 0 is one per core |
  | `SANGO_WORKERS` | `1` | jobs that run at the same time |
  | `SANGO_MAX_UNFINISHED` | `256` | jobs that may wait or run; more are refused with `queue_full` |
  | `SANGO_MAX_PER_CLIENT` | no bound | the same for one client |
  | `SANGO_KEEP_JOBS` | `1000` | ended jobs that are remembered, with their results |
  | `SANGO_MAX_VIDEO_BYTES` | `1073741824` | largest file that a question may be about, and all of those of one form |

  An empty variable counts as unset. Relative folders are relative to where the server is started.
  """

  @engine [
    threads: "SANGO_THREADS",
    workers: "SANGO_WORKERS",
    max_unfinished: "SANGO_MAX_UNFINISHED",
    max_per_client: "SANGO_MAX_PER_CLIENT",
    keep_jobs: "SANGO_KEEP_JOBS",
    max_video_bytes: "SANGO_MAX_VIDEO_BYTES"
  ]

  @doc """
  The configuration of the two applications: `:engine` for `Sango`, `:endpoint` for `SangoWeb.Endpoint` and `:web`.

  Raises with the variable's name and what to do when one cannot be used.
  """
  @spec read!(%{String.t() => String.t()}, :dev | :prod) :: %{
          engine: keyword,
          endpoint: keyword,
          web: keyword
        }
  def read!(variables, env) do
    variables = for {name, value} <- variables, value != "", into: %{}, do: {name, value}

    %{
      engine: engine(variables, env),
      endpoint: endpoint(variables, env),
      web: [allowed_origins: origins(variables)] ++ media(variables)
    }
  end

  defp engine(variables, env) do
    numbers = for {option, name} <- @engine, number = number(variables, name), do: {option, number}

    [
      models_dir: Map.get(variables, "SANGO_MODELS", models_dir(env)),
      data_dir: Map.get(variables, "SANGO_DATA", ".sango")
    ] ++ numbers
  end

  defp media(variables) do
    for bytes <- List.wrap(number(variables, "SANGO_MAX_VIDEO_BYTES")), do: {:max_media_bytes, bytes}
  end

  # A release is not inside the project.
  defp models_dir(:dev), do: Path.expand("../../../../models", __DIR__)
  defp models_dir(:prod), do: "models"

  defp endpoint(variables, env) do
    port = number(variables, "PORT") || 4000
    if port > 65_535, do: raise("PORT is #{port}: give a number from 0 to 65535")

    [http: [ip: ip(variables), port: port]] ++
      url(variables) ++ secret(variables, env) ++ server(variables)
  end

  defp url(%{"PHX_HOST" => host}), do: [url: [host: host, port: 443, scheme: "https"]]
  defp url(_variables), do: []

  defp server(%{"PHX_SERVER" => value}) when value in ["true", "1"], do: [server: true]
  defp server(_variables), do: []

  defp secret(%{"SECRET_KEY_BASE" => secret}, _env) when byte_size(secret) >= 64,
    do: [secret_key_base: secret]

  defp secret(%{"SECRET_KEY_BASE" => secret}, _env) do
    raise "SECRET_KEY_BASE has #{byte_size(secret)} bytes and needs 64: " <> make_secret()
  end

  defp secret(_variables, :dev), do: []
  defp secret(_variables, :prod), do: raise("SECRET_KEY_BASE is not set: " <> make_secret())

  defp make_secret do
    "make one with `openssl rand -base64 48` (or `mix phx.gen.secret`) and keep it, for all servers the same"
  end

  defp ip(variables) do
    text = Map.get(variables, "SANGO_LISTEN", "127.0.0.1")

    case :inet.parse_strict_address(to_charlist(text)) do
      {:ok, ip} ->
        ip

      {:error, _} ->
        raise "SANGO_LISTEN is `#{text}`: give an IP address, as 127.0.0.1 (this machine only) or 0.0.0.0 or ::"
    end
  end

  defp origins(variables) do
    for text <- variables |> Map.get("SANGO_ALLOWED_ORIGINS", "") |> String.split(","),
        origin = String.trim(text),
        origin != "" do
      case URI.new(origin) do
        {:ok, %URI{scheme: scheme, host: host, path: nil, query: nil, fragment: nil}}
        when scheme in ["http", "https"] and host not in [nil, ""] ->
          origin

        _ ->
          raise "SANGO_ALLOWED_ORIGINS has `#{origin}`: an origin is a scheme and a host, as https://studio.example"
      end
    end
  end

  defp number(variables, name) do
    with text when is_binary(text) <- variables[name] do
      case Integer.parse(text) do
        {number, ""} when number >= 0 -> number
        _ -> raise "#{name} is `#{text}`: give a whole number"
      end
    end
  end
end
