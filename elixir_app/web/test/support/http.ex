defmodule SangoWeb.HTTP do
  @moduledoc "Requests over a real connection to the running server, byte by byte as a test writes them."

  @doc "The address that the server listens on."
  def authority do
    {:ok, {_ip, port}} = SangoWeb.Endpoint.server_info(:http)
    "127.0.0.1:#{port}"
  end

  @doc "Sends a request and reads the answer to its end: status, headers and body."
  def request(method, path, headers \\ [], body \\ "") do
    socket = connect()
    :ok = send_head(socket, method, path, [{"content-length", to_string(byte_size(body))} | headers])
    # A server that has answered already may not take the rest.
    _ = :gen_tcp.send(socket, body)
    answer = socket |> read_all("") |> parse()
    :gen_tcp.close(socket)
    answer
  end

  def get(path, headers \\ []), do: request("GET", path, headers)

  @doc "Posts a job as JSON."
  def post(job, headers \\ []) do
    request("POST", "/v1/jobs", [{"content-type", "application/json"} | headers], Jason.encode!(job))
  end

  @doc "The code of an error's body, which has the answer's status."
  def code(%{status: status, body: body}) do
    %{"error" => %{"code" => code, "message" => message, "status" => ^status}} = Jason.decode!(body)
    true = message != ""
    code
  end

  def json(%{body: body}), do: Jason.decode!(body)

  @doc "A connection on which nothing has been said."
  def connect do
    [host, port] = String.split(authority(), ":")

    {:ok, socket} =
      :gen_tcp.connect(to_charlist(host), String.to_integer(port), [:binary, active: false, packet: :raw])

    socket
  end

  @doc "The head of a request."
  def send_head(socket, method, path, headers) do
    names = for {name, _} <- headers, do: name

    defaults =
      for {name, value} <- [{"host", authority()}, {"connection", "close"}],
          name not in names,
          do: {name, value}

    lines = for {name, value} <- headers ++ defaults, do: "#{name}: #{value}\r\n"
    :gen_tcp.send(socket, ["#{method} #{path} HTTP/1.1\r\n", lines, "\r\n"])
  end

  @doc "Everything that comes until the server closes."
  def read_all(socket, read) do
    case :gen_tcp.recv(socket, 0, 20_000) do
      {:ok, bytes} -> read_all(socket, read <> bytes)
      {:error, _closed} -> read
    end
  end

  @doc "Takes an answer apart."
  def parse(bytes) do
    [head, body] = :binary.split(bytes, "\r\n\r\n")
    ["HTTP/1.1 " <> <<status::binary-size(3), _::binary>> | lines] = String.split(head, "\r\n")

    headers =
      for line <- lines, into: %{} do
        [name, value] = String.split(line, ": ", parts: 2)
        {String.downcase(name), value}
      end

    body = if headers["transfer-encoding"] == "chunked", do: dechunk(body), else: body
    %{status: String.to_integer(status), headers: headers, body: body}
  end

  defp dechunk(body) do
    case :binary.split(body, "\r\n") do
      [size, rest] ->
        size = String.to_integer(size, 16)

        if size == 0 do
          ""
        else
          <<chunk::binary-size(^size), "\r\n", rest::binary>> = rest
          chunk <> dechunk(rest)
        end

      [_] ->
        ""
    end
  end
end
