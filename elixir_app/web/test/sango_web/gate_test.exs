defmodule SangoWeb.GateTest do
  use ExUnit.Case, async: true

  alias SangoWeb.Gate

  defp passes?(listens, method, host, origin, headers \\ []) do
    config = %{
      loopback?: listens == :loopback,
      host: "studio.example",
      allowed_origins: ["https://partner.example"]
    }

    headers = if origin, do: [{"origin", origin} | headers], else: headers
    conn = Plug.Test.conn(method, "/v1/jobs")

    case Gate.check(%{conn | req_headers: [{"host", host} | headers]}, config) do
      :ok ->
        true

      {:error, error} ->
        assert {error.code, error.status} == {"forbidden_origin", 403}
        false
    end
  end

  test "only the own page and programs may write" do
    assert passes?(:loopback, :post, "localhost:4000", nil), "curl sends no origin"
    assert passes?(:loopback, :post, "LOCALHOST:4000", "http://localhost:4000")
    assert passes?(:loopback, :post, "[::1]:4000", "http://[::1]:4000")
    assert passes?(:loopback, :post, "127.0.0.1:4000", "https://partner.example")
    assert passes?(:loopback, :get, "127.0.0.1:4000", "https://evil.example")
    refute passes?(:loopback, :post, "127.0.0.1:4000", "https://evil.example")
    refute passes?(:loopback, :post, "127.0.0.1:4000", "http://127.0.0.1:9999")
    refute passes?(:loopback, :delete, "127.0.0.1:4000", "null"), "a sandboxed frame"
    refute passes?(:loopback, :get, "127.0.0.1:4000", "https://evil.example", [{"upgrade", "websocket"}])
  end

  test "a rebound name is refused unless the server is open, or known by that name" do
    refute passes?(:loopback, :get, "evil.example:4000", "http://evil.example:4000")
    refute passes?(:loopback, :get, "localhost.evil.example", nil)
    refute passes?(:loopback, :get, "192.168.0.7:4000", nil)
    refute passes?(:loopback, :get, <<"evil", 0xFF>>, nil)
    assert passes?(:loopback, :get, "studio.localhost:4000", nil)
    assert passes?(:loopback, :post, "studio.example", "https://studio.example")
    assert passes?(:network, :post, "192.168.0.7:4000", "http://192.168.0.7:4000")
    refute passes?(:network, :post, "192.168.0.7:4000", "http://evil.example")
  end

  test "what the server listens on decides" do
    assert %{loopback?: true, allowed_origins: ["https://studio.example"]} = Gate.config()
  end
end
