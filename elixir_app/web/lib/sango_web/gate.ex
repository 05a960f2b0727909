defmodule SangoWeb.Gate do
  @moduledoc """
  Keeps pages of other sites out.

  A browser lets any page open a WebSocket to this machine and post forms to it, and says in `Origin` whose page it is.
  A page can also be served under a name that its owner then points at 127.0.0.1 ("DNS rebinding"); `Host` tells.
  """

  import Plug.Conn

  @typedoc """
  `loopback?`: the server listens for its own machine only. `host`: the name it is known by. `allowed_origins`: pages
  that may use it besides its own.
  """
  @type config :: %{loopback?: boolean, host: String.t(), allowed_origins: [String.t()]}

  @doc "Whether a request may pass; the error is `forbidden_origin`."
  @spec check(Plug.Conn.t(), config) :: :ok | {:error, Sango.Error.t()}
  def check(conn, config) do
    reads_only? =
      conn.method in ["GET", "HEAD", "OPTIONS", "TRACE"] and get_req_header(conn, "upgrade") == []

    host = host(conn)
    origin = conn |> get_req_header("origin") |> List.first()

    cond do
      config.loopback? and not loopback?(host) and not same?(name(host), config.host) ->
        forbidden("this server is only for its own machine, not for `#{host}`: set SANGO_LISTEN to open it")

      reads_only? or origin == nil or own?(origin, host) ->
        :ok

      Enum.any?(config.allowed_origins, &same?(&1, origin)) ->
        :ok

      true ->
        forbidden("pages of `#{origin}` may not use this server")
    end
  end

  @doc "The configuration as it is now."
  @spec config() :: config
  def config do
    %{
      loopback?: SangoWeb.Endpoint.config(:http)[:ip] |> loopback_ip?(),
      host: SangoWeb.Endpoint.config(:url)[:host],
      allowed_origins: Application.get_env(:web, :allowed_origins, [])
    }
  end

  # HTTP/2 has the host in `:authority`, which is not among the headers.
  defp host(conn) do
    case get_req_header(conn, "host") do
      [host | _] -> host
      [] -> "#{conn.host}:#{conn.port}"
    end
  end

  defp own?(origin, host) do
    case String.split(origin, "://", parts: 2) do
      [_scheme, authority] -> same?(authority, host)
      _ -> false
    end
  end

  # A client so old that it sends no host is no browser.
  defp loopback?(host) do
    name = name(host)

    name == "" or same?(name, "localhost") or String.ends_with?(String.downcase(name, :ascii), ".localhost") or
      case :inet.parse_strict_address(:binary.bin_to_list(name)) do
        {:ok, ip} -> loopback_ip?(ip)
        {:error, _} -> false
      end
  end

  defp name("[" <> rest), do: rest |> String.split("]", parts: 2) |> hd()
  defp name(host), do: host |> String.split(":", parts: 2) |> hd()

  defp loopback_ip?({127, _, _, _}), do: true
  defp loopback_ip?({0, 0, 0, 0, 0, 0, 0, 1}), do: true
  defp loopback_ip?(_), do: false

  defp same?(one, other), do: String.downcase(one, :ascii) == String.downcase(other, :ascii)
  defp forbidden(message), do: {:error, SangoWeb.Errors.new("forbidden_origin", message)}
end
