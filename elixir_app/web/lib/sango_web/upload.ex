defmodule SangoWeb.Upload do
  @moduledoc "A submission from a request body: JSON, or a form with files."

  import Plug.Conn

  alias SangoWeb.{Endpoint, Errors}

  @parts ["job", "image", "mask", "media"]
  # What one form may bring, as everywhere.
  @max_media 16
  @chunk 1_000_000
  # How long a client may take to send what is thrown away, in ms.
  @patience 10_000

  @doc """
  Reads the body into a request for `Sango.submit/2`: at most `SangoWeb.Endpoint.max_body_bytes/0` of it into memory,
  and of a form's `media` at most `SangoWeb.Endpoint.max_media_bytes/0` into files that go with the calling process. The
  header `Idempotency-Key` counts more than the field.

  The connection that comes back knows how far it has been read, also with an error: answering with the one given
  would wait for a body that has come already.
  """
  @spec read(Plug.Conn.t()) :: {:ok, term, Plug.Conn.t()} | {:error, Sango.Error.t(), Plug.Conn.t()}
  def read(conn) do
    type = content_type(conn)

    with :ok <- announced(conn, most(type)),
         {:ok, request, conn} <- read_as(type, conn) do
      {:ok, with_key(request, get_req_header(conn, "idempotency-key")), conn}
    else
      {:too_large, conn} -> {:error, too_large(most(type)), discard(conn)}
      {:error, error, conn} -> {:error, error, conn}
    end
  end

  # Refused before it is kept, where the client says how much it will be.
  defp announced(conn, most) do
    with [length] <- get_req_header(conn, "content-length"),
         {length, ""} <- Integer.parse(length),
         true <- length > most do
      {:too_large, conn}
    else
      _ -> :ok
    end
  end

  defp most("multipart/form-data"), do: Endpoint.max_body_bytes() + Endpoint.max_media_bytes()
  defp most(_other), do: Endpoint.max_body_bytes()

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
    read_parts(conn, %{"media" => []}, %{memory: Endpoint.max_body_bytes(), disk: Endpoint.max_media_bytes()})
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

  defp read_part({:ok, "media"}, conn, parts, left) do
    path = Plug.Upload.random_file!("sango")

    case File.open!(path, [:write, :binary, :raw], &read_file(conn, &1, left.disk)) do
      {:ok, conn, disk} ->
        # An empty part is what a page sends for a file field that was left empty.
        media = if disk < left.disk, do: [path | parts["media"]], else: parts["media"]
        read_parts(conn, %{parts | "media" => media}, %{left | disk: disk})

      {:too_large, conn} ->
        {:too_large, conn}

      {:full, conn} ->
        error = Errors.new("storage_full", "no room left for the uploaded file: free some disk space")
        {:error, error, close(conn)}
    end
  end

  defp read_part({:ok, name}, conn, parts, left) do
    case read_part_body(conn, length: left.memory) do
      {:ok, body, conn} when byte_size(body) <= left.memory ->
        read_parts(conn, Map.put(parts, name, body), %{left | memory: left.memory - byte_size(body)})

      {_, _, conn} ->
        {:too_large, conn}
    end
  end

  defp read_file(conn, file, left) do
    {more, body, conn} = read_part_body(conn, length: @chunk)
    left = left - byte_size(body)

    cond do
      left < 0 -> {:too_large, conn}
      :file.write(file, body) != :ok -> {:full, conn}
      more == :more -> read_file(conn, file, left)
      more == :ok -> {:ok, conn, left}
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
        invalid("unknown part `#{name}`: the parts are `job` (the JSON), `image`, `mask` and `media`")

      name == "media" and length(parts["media"]) == @max_media ->
        invalid("more than #{@max_media} parts are named `media`")

      name == "media" ->
        {:ok, name}

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
      {:ok, job |> with_file("image", parts) |> with_file("mask", parts) |> with_media(parts)}
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

  defp with_media(job, %{"media" => []}), do: job

  # After those that the JSON names.
  defp with_media(job, %{"media" => paths}) do
    media = for path <- Enum.reverse(paths), do: {:file, path}
    Map.put(job, "media", List.wrap(job["media"]) ++ media)
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

  defp too_large(most), do: Errors.new("too_large", "the body is over #{most} bytes: send smaller files")

  defp invalid(message), do: {:error, Errors.new("invalid_request", message)}
end
