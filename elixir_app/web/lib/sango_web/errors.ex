defmodule SangoWeb.Errors do
  @moduledoc "Errors of the one table, as HTTP answers."

  import Plug.Conn

  require Logger

  @busy ["queue_full", "shutting_down"]

  @doc "An error with this code of the table. The message may quote what a client sent, whatever its bytes are."
  @spec new(String.t(), binary) :: Sango.Error.t()
  def new(code, message) do
    {^code, status} = List.keyfind(Sango.error_table(), code, 0)
    Sango.Error.new({code, as_text(message), status})
  end

  @doc "Answers with an error, in the shape of the protocol."
  @spec send_error(Plug.Conn.t(), Sango.Error.t()) :: Plug.Conn.t()
  def send_error(conn, %Sango.Error{} = error) do
    busy? = error.code in @busy
    if error.status >= 500 and not busy?, do: Logger.error("#{error.code}: #{error.message}")
    conn = if busy?, do: put_resp_header(conn, "retry-after", "5"), else: conn
    send_json(conn, error.status, Sango.Error.body(error))
  end

  @doc "Answers with JSON."
  @spec send_json(Plug.Conn.t(), Plug.Conn.status(), term) :: Plug.Conn.t()
  def send_json(conn, status, body) do
    conn
    |> put_resp_header("content-type", "application/json")
    |> send_resp(status, Jason.encode_to_iodata!(body))
  end

  defp as_text(message) do
    if String.valid?(message),
      do: message,
      else: for(<<byte <- message>>, into: "", do: if(byte < 128, do: <<byte>>, else: "?"))
  end
end
