defmodule SangoWeb.Handshake do
  @moduledoc """
  Answers a request to open the channel socket that cannot be met as every other bad request: with an error of the
  table. Phoenix would answer it with an empty body.
  """

  import Plug.Conn

  alias SangoWeb.Errors

  @doc "Lets a request pass unless it is for the socket and wrong."
  @spec check(Plug.Conn.t()) :: {:ok, Plug.Conn.t()} | {:error, Sango.Error.t()}
  def check(%Plug.Conn{path_info: ["socket", "websocket"]} = conn) do
    with :ok <- method(conn),
         {:ok, vsn} <- version(conn),
         :ok <- upgrade(conn) do
      {:ok, %{conn | query_string: URI.encode_query(vsn: vsn)}}
    end
  end

  def check(conn), do: {:ok, conn}

  defp method(%{method: method}) when method in ["GET", "HEAD", "CONNECT"], do: :ok

  defp method(conn) do
    message = "#{conn.request_path} does not take #{conn.method}: see /openapi.json"
    {:error, Errors.new("method_not_allowed", message)}
  end

  # Version 1 has frames of another shape; only a client that says so speaks it.
  defp version(conn) do
    case fetch_query_params(conn).query_params do
      %{"vsn" => "2." <> _ = vsn} -> {:ok, if(match?({:ok, _}, Version.parse(vsn)), do: vsn, else: "2.0.0")}
      %{"vsn" => vsn} -> invalid("the socket speaks version 2.0.0 of Phoenix Channels, not #{inspect(vsn)}")
      %{} -> {:ok, "2.0.0"}
    end
  end

  defp upgrade(conn) do
    with {:error, reason} <- WebSockAdapter.UpgradeValidation.validate_upgrade(conn) do
      invalid("this is the address of a WebSocket: #{reason}")
    end
  end

  defp invalid(message), do: {:error, Errors.new("invalid_request", message)}
end
