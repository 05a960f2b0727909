defmodule SangoWeb.Upload do
  @moduledoc "A submission from a request body: JSON, or a form with files."

  import Plug.Conn

  alias SangoWeb.{Endpoint, Errors}

  @parts ["job", "image", "mask"]
  # How long a client may take to send what is thrown away, in ms.
  @patience 10_000

  @doc """
  Reads the body, at most `SangoWeb.Endpoint.max_body_bytes/0`, into a request for `Sango.submit/2`. The header
  `Idempotency-Key` counts more than the field.

  The connection that comes back knows how far it has been read, also with an error: answering with the one given
  would wait for a body that has come already.
  """
  @spec read(Plug.Conn.t()) :: {:ok, term, Plug.Conn.t()} | {:error, Sango.Error.t(), Plug.Conn.t()}
  def read(conn) do
    with :ok <- announced(conn),
         {:ok, request, conn} <- read_as(content_type(conn), conn) do
      {:ok, with_key(request, get_req_header(conn, "idempotency-key")), conn}
    else
      {:too_large, conn} -> {:error, too_large(), discard(conn)}
      {:error, error, conn} -> {:error, error, conn}
    end
  end

  # Refused before it is kept, where the client says how much it will be.
  defp announced(conn) do
    with [length] <- get_req_header(conn, "content-length"),
         {length, ""} <- Integer.parse(length),
         true <- length > Endpoint.max_body_bytes() do
      {:too_large, conn}
    else
      _ -> :ok
    end
  end

  defp content_type(conn) do
    conn
    |> get_req_header("content-type")
    |> List.first("")
    |> String.split(";", parts: 2)
    |> hd()
    |> String.trim()
    |> String.downcase(:ascii)
  end

  defp read_as("application/json", conn) do
    with {:ok, body, conn} <- read_whole(conn) do
      body |> decode() |> with_conn(conn)
    end
  end

  defp read_as("multipart/form-data", conn) do
    with {:ok, parts, conn} <- read_form(conn) do
      parts |> from_parts() |> with_conn(conn)
    end
  end

  defp read_as(other, conn) do
    message = "a job is application/json or multipart/form-data, not `#{other}`"
    {:error, Errors.new("unsupported_media_type", message), conn}
  end

  defp with_conn({outcome, value}, conn), do: {outcome, value, conn}

  defp read_whole(conn) do
    case read_body(conn, length: Endpoint.max_body_bytes()) do
      {:ok, body, conn} -> {:ok, body, conn}
      {:more, _body, conn} -> {:too_large, conn}
      {:error, reason} -> broken("the body could not be read: #{inspect(reason)}", conn)
    end
  end

  defp decode(body) do
    case Jason.decode(body) do
      {:ok, request} -> {:ok, request}
      {:error, error} -> invalid("not JSON: #{Jason.DecodeError.message(error)}")
    end
  end

  # Plug raises where a form breaks off, and there is no other cause.
  defp read_form(conn) do
    read_parts(conn, %{}, Endpoint.max_body_bytes())
  rescue
    error in [Bandit.TransportError, Bandit.HTTPError] -> reraise error, __STACKTRACE__
    error -> broken("not a form as multipart/form-data has it: #{Exception.message(error)}", conn)
  end

  defp read_parts(conn, parts, left) do
    case read_part_headers(conn) do
      {:ok, headers, conn} -> read_part(new_part(headers, parts), conn, parts, left)
      {:done, conn} -> {:ok, parts, conn}
      {:error, :too_large, conn} -> {:too_large, conn}
    end
  end

  defp read_part({:error, error}, conn, _parts, _left), do: {:error, error, close(conn)}

  defp read_part({:ok, name}, conn, parts, left) do
    case read_part_body(conn, length: left) do
      {:ok, body, conn} when byte_size(body) <= left ->
        read_parts(conn, Map.put(parts, name, body), left - byte_size(body))

      {_, _, conn} ->
        {:too_large, conn}
    end
  end

  # How far the body has been read is not known any more, so that nothing can follow it.
  defp broken(message, conn) do
    {:error, error} = invalid(message)
    {:error, error, close(conn)}
  end

  defp close(conn), do: put_resp_header(conn, "connection", "close")

  defp new_part(headers, parts) do
    name = part_name(headers)

    cond do
      name not in @parts ->
        invalid("unknown part `#{name}`: the parts are `job` (the JSON), `image` and `mask`")

      is_map_key(parts, name) ->
        invalid("two parts are named `#{name}`")

      true ->
        {:ok, name}
    end
  end

  defp part_name(headers) do
    with {_, disposition} <- List.keyfind(headers, "content-disposition", 0, :none),
         %{"name" => name} <- Plug.Conn.Utils.params(disposition) do
      name
    else
      _ -> ""
    end
  end

  defp from_parts(parts) do
    with {:ok, job} <- job(parts) do
      {:ok, job |> with_file("image", parts) |> with_file("mask", parts)}
    end
  end

  defp job(%{"job" => body}) do
    with {:ok, job} when not is_map(job) <- decode(body) do
      invalid("the part `job` is not a JSON object")
    end
  end

  defp job(_parts), do: invalid("the part `job` (the JSON) is missing")

  # An empty part is what a page sends for a file field that was left empty.
  defp with_file(job, name, parts) do
    case parts do
      %{^name => bytes} when bytes != "" -> Map.put(job, name, {:bytes, bytes})
      _ -> job
    end
  end

  defp with_key(request, [key | _]) when is_map(request), do: Map.put(request, "idempotency_key", key)
  defp with_key(request, _keys), do: request

  # Reads on without keeping anything: a client that is cut off while it sends never sees the answer. Not for ever,
  # though.
  defp discard(conn) do
    discard(conn, 2 * Endpoint.max_body_bytes(), System.monotonic_time(:millisecond) + @patience)
  end

  defp discard(conn, left, until) do
    wait = until - System.monotonic_time(:millisecond)

    case left > 0 and wait > 0 and read_body(conn, length: 1_000_000, read_timeout: wait) do
      {:more, bytes, conn} -> discard(conn, left - byte_size(bytes), until)
      {:ok, _bytes, conn} -> conn
      _ -> conn
    end
  end

  defp too_large do
    Errors.new("too_large", "the body is over #{Endpoint.max_body_bytes()} bytes: send smaller images")
  end

  defp invalid(message), do: {:error, Errors.new("invalid_request", message)}
end
