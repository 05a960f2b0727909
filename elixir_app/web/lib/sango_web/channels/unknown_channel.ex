defmodule SangoWeb.UnknownChannel do
  @moduledoc "Refuses topics that there are none of."

  use Phoenix.Channel

  @impl true
  def join(topic, _params, _socket) do
    message = "there is no topic `#{topic}`: there are `studio` and `job:<id>`"
    {:error, "unknown_topic" |> SangoWeb.Errors.new(message) |> Sango.Error.body()}
  end
end
