defmodule SangoWeb do
  @moduledoc """
  Sango over the network, with Phoenix: the protocol of `docs/protocol.md`, the studio page at `/` and a page for
  operators at `/ops`. What the jobs are and do is `Sango`'s.
  """

  @doc "A controller whose actions may give `{:error, error}` back instead of a connection."
  def controller do
    quote do
      use Phoenix.Controller, formats: []

      import Plug.Conn
      import SangoWeb.Errors, only: [send_error: 2, send_json: 3]

      action_fallback SangoWeb.FallbackController
    end
  end

  @doc false
  defmacro __using__(which) when is_atom(which), do: apply(__MODULE__, which, [])
end
