defmodule SangoWeb.OpsLive do
  @moduledoc false
  use Phoenix.LiveView
  def render(assigns), do: ~H"<p>soon</p>"
end
