defmodule SangoWeb.FallbackController do
  @moduledoc "Answers with the error that an action gave back."

  use Phoenix.Controller, formats: []

  @doc false
  def call(conn, {:error, %Sango.Error{} = error}), do: SangoWeb.Errors.send_error(conn, error)
end
